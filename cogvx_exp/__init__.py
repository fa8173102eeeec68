"""cogvx-exp: fine-tuning of CogVideoX models, configured with Hydra."""

__version__ = "0.1.0"
