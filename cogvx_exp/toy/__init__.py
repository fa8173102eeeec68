"""A small world of moving shapes: what the tiny model was trained on, and what it can be taught."""
