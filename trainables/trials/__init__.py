"""The trainables, which a sweep, `run` and torchrun call. Each file has one trainable."""
