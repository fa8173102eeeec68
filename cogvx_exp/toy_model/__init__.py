"""How the weights of the tiny models are made and checked. Not needed for training."""
