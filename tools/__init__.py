"""Development scripts; the package does not import them."""
