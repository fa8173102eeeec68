"""Profiles training steps (`profile=true`) and breaks their time down by part of the model."""
