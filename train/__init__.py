"""Fine-tuning: rows of a dataset -> a LoRA adapter that vLLM serves."""
