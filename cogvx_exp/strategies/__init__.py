"""How a training step runs: in one process, or in several that share gradients, states or weights."""
