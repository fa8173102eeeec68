"""Offloads weights and activations to host memory."""
