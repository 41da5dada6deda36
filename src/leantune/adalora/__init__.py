"""AdaLoRA: layers with triplets, the budget they fit, and the allocator that moves their ranks.

From a limit to ranks: `budget`. One layer: `layer`, of `triplets` that `method` draws. Ranks by step: `schedule`; which
triplets live: `allocator`; the final cut: `prune`. To and from PEFT's files: `adapter_file` and `export`.
"""
