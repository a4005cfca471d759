"""The tiny base, the stand-in for Qwen3-8B: its samples, its pretraining, its measures."""
