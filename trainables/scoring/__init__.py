"""From embeddings to numbers: probes, zero-shot, metrics with intervals, audits. Needs no encoder."""
