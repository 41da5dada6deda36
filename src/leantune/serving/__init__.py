"""The HTTP server: `app` puts the dialects on one port, `service` is what they ask.

`batching` and `pool` share the work out, `worker` and `engine` compute in processes of their own, `answer` holds what
comes back. `dialects/` speaks as other servers do, `page/` is for browsers.
"""
