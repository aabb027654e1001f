"""From a finished trial to a model in use: writes model folders, reads them, and predicts."""
