"""Finding, building and loading the parts of a CogVideoX pipeline, and adapting its transformer."""
