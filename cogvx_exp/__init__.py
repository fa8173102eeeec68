"""cogvx-exp: fine-tuning experiments for the CogVideoX family, configured with Hydra."""

__version__ = "0.1.0"
