"""Goes through a run without data, and counts the bytes that are alive."""
