"""From cached latents to batches: order, randomness, worker processes."""
