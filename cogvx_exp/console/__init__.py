"""Terminal output, progress and pictures; silences the libraries."""
