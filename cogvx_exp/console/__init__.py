"""What a person sees: the terminal, progress, pictures; and what they are not shown of the libraries."""
