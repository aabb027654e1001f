"""The ledger, replayed into MLflow."""
