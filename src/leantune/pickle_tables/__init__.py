"""Tables in pickles, read without unpickling: nothing a file names is ever imported or called.

``decode`` turns opcodes into inert nodes, ``names`` lists the only names that may occur, ``measure``
bounds what the nodes would hold, ``shapes`` matches the nodes of known tables, and ``read`` joins them.
"""
