"""Which cards a time is predicted for."""

import re
from functools import lru_cache, partial

import torch

from cogvx_exp.config.choices import cards
from cogvx_exp.config.schema import Hardware

WITHOUT_GPU = ("a100", "h100", "rtx4090")
"""Cards that are compared on a machine without a GPU."""


def card_of(device_name: str) -> Hardware | None:
    """The card by the name that CUDA gives to a device, if there is a file for it in conf/hardware.

    A laptop's or a cut-down variant of a card is another card.
    """
    return max(filter(partial(_fits, device_name), _cards().values()), key=_length, default=None)


def is_card(card: Hardware, device_name: str) -> bool:
    """Whether a device is such a card, which may be the user's own: no other text is longer in the name."""
    known = card_of(device_name)
    return _fits(device_name, card) and (known is None or _length(known) <= _length(card))


def _fits(device_name: str, card: Hardware) -> bool:
    pattern = rf"\b{re.escape(card.device or '')}\b(?! (Ti|D|Laptop|SUPER))"
    return card.device is not None and re.search(pattern, device_name) is not None


def _length(card: Hardware) -> int:
    return len(card.device or "")


def cards_for(hardware: Hardware, device_name: str | None) -> list[Hardware]:
    """The cards to predict for.

    Args:
        hardware: the settings; values given with `auto` replace the cards' own.
        device_name: of this machine's GPU, if it has one.
    """
    if hardware.name != "auto":
        return [hardware]
    if device_name:
        found = [card] if (card := card_of(device_name)) else []
    else:
        found = [_cards()[name] for name in WITHOUT_GPU]
    given = hardware.model_dump(exclude_none=True, exclude={"name"})
    return [card.model_copy(update=given) for card in found]


def gpu_name(device: str) -> str | None:
    """The name of the GPU that `device` chooses on this machine; None if that is a CPU."""
    if device == "cpu" or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name(device if ":" in device else None))


@lru_cache(maxsize=1)
def _cards() -> dict[str, Hardware]:
    return {name: Hardware.model_validate(values) for name, values in cards().items()}
