"""Several models trained on the same labels: their predictions, their spread and their errors."""
