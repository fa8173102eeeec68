"""Selects the cards to predict times for."""

import re
from functools import lru_cache, partial

import torch

from cogvx_exp.config.choices import cards
from cogvx_exp.config.schema import Hardware

WITHOUT_GPU = ("a100", "h100", "rtx4090")
"""Cards to compare on a machine without a GPU."""


def card_of(device_name: str) -> Hardware | None:
    """The card for a CUDA device name, if conf/hardware has a file for it.

    Laptop and cut-down variants are different cards.
    """
    return max(filter(partial(_fits, device_name), _cards().values()), key=_length, default=None)


def is_card(card: Hardware, device_name: str) -> bool:
    """Whether a device is this card, possibly a user-defined one: no other card's text in the name is longer."""
    known = card_of(device_name)
    return _fits(device_name, card) and (known is None or _length(known) <= _length(card))


def _fits(device_name: str, card: Hardware) -> bool:
    # An "RTX 4090 Laptop GPU" is a smaller chip with the name of a larger one.
    pattern = rf"\b{re.escape(card.device or '')}\b(?! (Ti|D|Laptop|SUPER))"
    return card.device is not None and re.search(pattern, device_name) is not None


def _length(card: Hardware) -> int:
    return len(card.device or "")


def cards_for(hardware: Hardware, device_name: str | None) -> list[Hardware]:
    """The cards to predict for.

    Args:
        hardware: the settings; with `auto`, given values override those of the cards.
        device_name: CUDA's name of this machine's GPU, if any.
    """
    if hardware.name != "auto":
        return [hardware]
    if device_name:
        selected = [card] if (card := card_of(device_name)) else []
    else:
        selected = [_cards()[name] for name in WITHOUT_GPU]
    given = hardware.model_dump(exclude_none=True, exclude={"name"})
    return [card.model_copy(update=given) for card in selected]


def gpu_name(device: str) -> str | None:
    """The name of the GPU that `device` selects on this machine; None for a CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(device if ":" in device else None))


@lru_cache(maxsize=1)
def _cards() -> dict[str, Hardware]:
    return {name: Hardware.model_validate(values) for name, values in cards().items()}
