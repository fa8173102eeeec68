"""How one step is taken: by one process, or by several that share gradients, states or weights."""
