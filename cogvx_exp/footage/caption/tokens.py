"""Counts the tokens of captions as the text encoder of the trained model will."""

from collections.abc import Callable
from pathlib import Path

from cogvx_exp.config.schema import Model


def token_counter(model: Model, cache_dir: Path) -> Callable[[list[str]], list[int]]:
    """A function that counts the T5 tokens of texts.

    Raises:
        UserError: the tokenizer cannot be found.
    """
    from cogvx_exp.model.load import load_tokenizer, pipeline_folder

    tokenizer = load_tokenizer(pipeline_folder(model, cache_dir))
    return lambda texts: [len(tokens) for tokens in tokenizer(texts, truncation=False).input_ids]
