"""Facts about every encoder, classifier and captioner that are known before loading. No torch at import."""
