"""A load generator for servers of classifiers: `leantune bench-serve`.

`dialects` says what requests and answers look like, `texts` what is in them, `connection` sends them, `first_request`
says what is wrong before anything is measured, `levels` and `processes` make load, and `summary` counts what came back.
"""
