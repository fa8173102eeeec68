"""What the check before a run compares a prediction with."""

from types import SimpleNamespace
from typing import Any

import pytest

from cogvx_exp.launch import preflight as module


@pytest.mark.parametrize(
    ("free", "total", "budget", "said"),
    [
        (23.0, 23.6, 23.4, "the 23.6 GiB of this Card"),
        (23.6, 23.6, 23.6, "the 23.6 GiB of this Card"),
        (5.0, 23.6, 5.4, "the 5.4 GiB that are free of the 23.6 of this Card"),
    ],
)
def test_the_memory_that_is_free_counts(
    free: float, total: float, budget: float, said: str, monkeypatch: pytest.MonkeyPatch, make_job
) -> None:
    found: dict[str, Any] = {}

    def refuse(job: Any, overrides: Any, shapes: Any, budget: float, limit: str) -> Any:
        found.update(budget=budget, limit=limit)
        return SimpleNamespace(peak=1.0)

    monkeypatch.setattr(module, "_gpu", lambda device: (free, total, "Card"))
    monkeypatch.setattr("cogvx_exp.estimate.command.refuse_if_too_large", refuse)
    module.preflight(make_job("memory.preflight=true", "device=cuda"), [], set())
    assert found["budget"] == pytest.approx(budget)
    assert found["limit"].startswith(said)
