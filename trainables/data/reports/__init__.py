"""Radiologists' reports: their sections, their sentences, and the captions made of them."""
