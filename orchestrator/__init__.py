"""The control plane: decides what runs where, records it, and reports the results. No tensor code."""

__version__ = "0.1.0"
