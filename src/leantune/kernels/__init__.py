"""The code that computes an encoder.

`interface` defines the operations, `reference` specifies them in plain torch, and `native` runs them in the C library.
`choose` picks one of them when a model is built. `grouped` and `accelerator` are the reference's attention on a CPU and
on a GPU.
"""
