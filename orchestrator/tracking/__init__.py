"""Copies the ledger of a sweep into MLflow.

`replay` runs the process that copies, `mlflow_runs` writes parameters, tags and metrics, and
`mlflow_artifacts` writes files.
"""
