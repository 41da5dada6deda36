"""Work for more than one process, on this machine or on Ray.

`predict/` classifies many files, `many/` trains the classifiers of a table, `search/` looks for a recipe, `nodes/`
trains one classifier on several nodes. `connection` joins a Ray cluster, `processes` and `ray_tasks` run jobs,
`shipping` carries classifiers to nodes, `storage` reads and writes folders here and elsewhere, `columns` takes rows
of data frames.
"""
