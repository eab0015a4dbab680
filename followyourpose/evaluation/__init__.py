"""What a model is worth: metrics, the features they need, and the protocol that applies them."""
