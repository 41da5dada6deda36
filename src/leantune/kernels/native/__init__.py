"""Kernels of the C library in ``csrc/``: bf16 and int8 on x86-64 processors.

`kernels` computes an encoder. `layer` is a whole int8 layer; `linear`, `attention`, `dense` and `rows` are parts of
layers. `weights` holds frozen weights in the kernels' formats, and `library` loads the C library.
"""
