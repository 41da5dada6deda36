"""Where one process is not enough: parts of a large prediction, many classifiers, several nodes, a search.

`processes` runs tasks in processes of this machine, `connection` connects to a Ray cluster, `storage` reads and writes
files elsewhere, and `shipping` takes a classifier to nodes without a common disk. On these stand `bulk_predict` (with
`parts`, `ledger`, `lease`, `part_worker`, `ray_parts` and `verify`), `train_many` (with `jobs` and `overview`),
`training` and `search`. Each command works in local processes, and with ``--cluster`` on Ray.
"""
