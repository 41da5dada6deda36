"""What computes an encoder: `interface` says what is asked, `reference` is the specification in torch, and
`native` the C library.

`choose` decides once, when a model is built. `grouped` and `accelerator` are the reference's attention on
a CPU and on a GPU.
"""
