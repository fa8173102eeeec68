"""Trains and evaluates the tiny models. Not needed for training on top of them."""
