"""The forms that a dataset can have on disk: rows of videos and captions."""
