"""The words for the classes of a data set: captions and prompts, from a YAML file or made from the labels."""
