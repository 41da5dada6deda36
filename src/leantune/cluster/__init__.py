"""Work in several processes, on this machine or on a Ray cluster.

`predict/` classifies many files, `many/` trains the classifiers of a table, `search/` searches for the best recipe, and
`nodes/` trains one classifier on several nodes. `connection` connects to a Ray cluster, `processes` and `ray_tasks` run
tasks, `shipping` sends classifiers to nodes, `storage` reads and writes local and remote files, and `columns` checks
columns of data frames.
"""
