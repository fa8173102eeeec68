"""Some of the random command lines of benchmarks/random_runs.py, which runs hundreds."""

import random
from pathlib import Path

import pytest

from tests.conftest import extended
from tests.random_settings import random_command, run


@pytest.mark.parametrize("number", [extended(0), 1, extended(2), extended(3), extended(4)])
def test_a_random_command_line_ends_in_a_result_or_in_a_refusal_that_names_a_setting(
    number: int, tmp_path: Path, shared_cache: Path
) -> None:
    outcome = run(random_command(random.Random(f"suite {number}")), tmp_path / "run", shared_cache)
    assert outcome.problem is None, f"{outcome.command}\n{outcome.screen}"
