"""Where the time of training steps goes (`profile=true`): records them, and sums them up by part of the model."""
