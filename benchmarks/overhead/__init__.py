"""What adaptive rank costs a training step, against plain LoRA in the same process."""
