"""What a model is conditioned on besides text; one file per task."""
