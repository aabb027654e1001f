"""What is known of every encoder, classifier and captioner before it is loaded. No torch at import."""
