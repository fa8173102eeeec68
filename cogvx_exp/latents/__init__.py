"""Encodes a dataset once: latents of clips and embeddings of captions, in a cache."""
