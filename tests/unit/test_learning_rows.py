"""Rows of docs/learning.md: each optimizer has one, and a run that has not used its setting is an error."""

from typing import Any

import pytest

from benchmarks.learning import PAGE, known_rows
from benchmarks.learning_rows import NEEDS_GPU, ROWS, NotExercisedError
from cogvx_exp.config.choices import names_of

USUAL: dict[str, Any] = {
    **{"optimizer": "AdamW", "optimizers": ["AdamW"], "strategy": "Strategy", "processes": 1, "sharded": 0},
    **{"large states": {"float32": 96}, "bytes of large states": {"cpu": 4}, "trained": ["lora_A"], "moved": True},
    **{"share trained": 0.1, "dtype of the base": {"torch.float32": 1}, "dtype trained": {"torch.float32": 1}},
    **{"layers": {"Linear": 120}, "input channels": 8, "graphs": 0, "calls": {"block": 6, "transformer": 6}},
}
"""What is seen of a run with default settings, on a CPU."""
OF_THE_USUAL = ("the quickstart",)
WITHOUT_A_CHECK = ("the base model, not trained",)


def test_every_optimizer_has_a_row() -> None:
    rows = " ".join(f"{row.settings} " for row in ROWS.values())
    assert [name for name in names_of("optim") if f"optim={name} " not in rows and name not in NEEDS_GPU] == ["adamw"]
    assert set(known_rows()) <= set(ROWS), f"{PAGE.name} has rows that are no longer there"


@pytest.mark.parametrize("name", [name for name in ROWS if "data.concept" not in name and name not in WITHOUT_A_CHECK])
def test_a_run_with_default_settings_does_not_count_as_another(name: str) -> None:
    if name in OF_THE_USUAL:
        assert ROWS[name].check(USUAL)
        return
    with pytest.raises(NotExercisedError):
        ROWS[name].check(USUAL)


def test_quantized_states_must_be_all_that_are_large_enough() -> None:
    seen = USUAL | {"optimizers": ["AdamW8bit"], "large states": {"OptimState8bit": 96}}
    assert ROWS["optim=ao_adamw8bit"].check(seen).endswith("states of 4096 values or more: 96 OptimState8bit")
    for states in ({"OptimState8bit": 95, "float32": 1}, {}):
        with pytest.raises(NotExercisedError):
            ROWS["optim=ao_adamw8bit"].check(seen | {"large states": states})
