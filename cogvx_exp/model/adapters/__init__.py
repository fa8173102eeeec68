"""LoRA and other adapters: files, formats and strength."""
