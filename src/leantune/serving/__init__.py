"""The HTTP server: `app` serves all dialects on one port, and `service` handles their requests.

`batching` and `pool` distribute the work. `worker` and `engine` compute in separate processes, and `answer` holds the
results. `dialects/` implements the APIs of other servers, and `page/` is the page for browsers.
"""
