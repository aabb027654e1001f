"""The control plane: decides which trial runs where, and records and reports the results. No tensor code."""

__version__ = "0.1.0"
