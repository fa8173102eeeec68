"""Reading video files: frames and their times as players show them, decoding, and frame orientation."""
