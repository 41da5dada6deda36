"""The kernel interface by the C library in ``csrc/``: bf16 and int8 on x86-64 processors.

`kernels` drives an encoder; `layer` is a whole layer in int8, `linear`, `attention`, `dense` and `rows` are its parts;
`weights` holds frozen weights as the kernels want them; `library` loads the C.
"""
