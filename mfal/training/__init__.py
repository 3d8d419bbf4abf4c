"""Labels to tensors, the loss and the training loop."""
