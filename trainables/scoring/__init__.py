"""Computes scores from embeddings: probes, zero-shot, metrics with intervals, audits. Needs no encoder."""
