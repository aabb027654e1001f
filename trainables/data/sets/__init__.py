"""Describes public data sets, folders and tables of radiographs, and reads them all with one reader."""
