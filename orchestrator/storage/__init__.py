"""The files of a sweep: the ledger, the home folder, and the storage with its lease."""
