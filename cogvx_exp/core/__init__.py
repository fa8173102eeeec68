"""What everything else may use: errors, files, text, randomness."""
