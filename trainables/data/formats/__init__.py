"""Decodes image files of every supported format to 8-bit grey. The door is `decode.decode`."""
