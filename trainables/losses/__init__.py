"""Exact contrastive losses over a global batch: the losses, their gradients, and the training step.

To add a loss, add an entry to `contrastive.LOSSES`.
"""
