"""LoRA and its relatives: their files, formats and strength."""
