"""Code of the dual encoders, one file per family, with their towers and blocks.

An encoder also needs an entry in `catalogue.registry`.
"""
