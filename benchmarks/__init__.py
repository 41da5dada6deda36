"""What is compared with what. ``benchmarks/results/`` holds what was measured, where and when."""
