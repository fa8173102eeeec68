"""Reads video files: which frames a player shows and when, decoding, and how a frame is brought upright."""
