"""Facts about every encoder, classifier and captioner that are known before loading. Imports no torch.

To add an encoder, add an entry to `registry.ENCODERS`, or to `medical.MEDICAL` for a medical encoder.
"""
