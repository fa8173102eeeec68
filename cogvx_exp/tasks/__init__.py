"""What a model is conditioned on besides text: one file a task."""
