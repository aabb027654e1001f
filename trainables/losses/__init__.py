"""The exact global-batch engine: contrastive losses, their gradients, and the step that applies them."""
