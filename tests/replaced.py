"""Functions replaced by mocks, for tests of what they are called with."""

from typing import Any
from unittest.mock import MagicMock

import pytest


class ReachedError(Exception):
    """Ends a test where what follows does not matter."""


def replaced(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> dict[str, MagicMock]:
    """The named functions of a module, replaced by mocks."""
    mocks = {name: MagicMock(name=name) for name in names}
    for name, mock in mocks.items():
        monkeypatch.setattr(module, name, mock)
    return mocks
