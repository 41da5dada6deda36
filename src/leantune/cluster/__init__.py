"""Where one process is not enough: the parts of a large prediction, many classifiers, several nodes, a search.

`processes` runs tasks in processes of this machine, `connection` connects to a Ray cluster, and every other module is
one thing that is done there. Each of these commands works without Ray, in local processes; with ``--cluster`` on Ray.
"""
