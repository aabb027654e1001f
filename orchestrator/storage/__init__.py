"""What is kept, and where: the ledger, the home folder, the storage URI and its lease."""
