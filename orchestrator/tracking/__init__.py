"""The replay of a sweep's ledger into MLflow, and the MLflow server."""
