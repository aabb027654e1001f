"""The control plane: decides what runs where, records it, and says what came out. No tensor code."""
