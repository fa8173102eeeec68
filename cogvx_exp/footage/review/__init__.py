"""A page on which captions can be corrected."""
