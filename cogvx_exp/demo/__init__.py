"""Moving shapes: the data the tiny model was trained on, and the concepts it can be taught."""
