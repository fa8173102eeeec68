"""Every setting has a mutant that a test notices (benchmarks/mutants), or a reason to have none."""

import pytest
import torch

from benchmarks.mutants.page import PAGE, page
from benchmarks.mutants.results import read_results
from benchmarks.mutants.swap import swapped
from benchmarks.mutants.table import MUTANTS, REASONS, reason, settings
from cogvx_exp.optim.build import parameter_groups
from tests.conftest import MakeJob
from tests.mutation import ROOT


def test_every_setting_has_a_mutant_or_a_reason() -> None:
    keys = settings()
    assert [key for key in MUTANTS if key not in keys] == []
    assert [key for key in keys if key not in MUTANTS and not reason(key)] == []
    used = {name for name in REASONS for key in keys if key not in MUTANTS and reason(key) == REASONS[name]}
    assert used == REASONS.keys()


def test_every_mutant_is_one_change_of_code_that_a_test_notices() -> None:
    results = read_results()
    for key, mutant in MUTANTS.items():
        compile(mutant.text(), mutant.file, "exec")  # the text to replace occurs once
        file, _, name = mutant.test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / "tests" / file).read_text() or not name, mutant.test
        assert key in results, f"run: python -m benchmarks.mutants --only {key}"
        assert results[key].noticed, key
    assert PAGE.read_text(encoding="utf-8") == page(), "run: python -m benchmarks.mutants --docs"


def test_a_fault_is_in_the_code_only_as_long_as_it_is_tried(make_job: MakeJob) -> None:
    optim = make_job("optim.weight_decay=0.5").optim
    weight = {"weight": torch.nn.Parameter(torch.zeros(2, 2))}

    def decay() -> float:
        return float(parameter_groups(weight, optim, 1.0)[0]["weight_decay"])

    assert decay() == 0.5
    with swapped(MUTANTS["optim.weight_decay"]):
        assert decay() == 0.001
    assert decay() == 0.5


def test_a_fault_that_is_not_in_the_code_is_an_error() -> None:
    mutant = MUTANTS["optim.weight_decay"]
    with pytest.raises(AssertionError, match="0 times"), swapped(type(mutant)(mutant.file, "nothing", "", mutant.test)):
        pass
