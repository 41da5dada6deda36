"""AdaLoRA: layers with triplets, the budget that limits them, and the allocator that moves their ranks.

`budget` turns a parameter limit into ranks. `layer` is one adapted layer, with `triplets` that `method` initialises.
`schedule` gives ranks by step, `allocator` decides which triplets live, and `prune` makes the final cut. `adapter_file`
and `export` read and write PEFT's files.
"""
