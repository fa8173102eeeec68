"""Encodes a dataset once into a cache: VAE moments of clips and embeddings of captions."""
