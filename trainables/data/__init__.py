"""From image files to global batches: records, splits by patient, decoded pixels, captions."""
