"""LoRA on an encoder: targets, proof of life, files, precision."""
