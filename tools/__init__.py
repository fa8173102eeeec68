"""Programs for working on the project itself; the package does not import them."""
