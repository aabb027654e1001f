"""Turns image files into global batches: records, splits by patient, decoded pixels, captions."""
