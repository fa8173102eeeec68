"""Memory is predicted for every method, optimizer and storage, and near what real tensors take."""

from pathlib import Path

import pytest

from cogvx_exp.estimate.trace.training_step import trace_steps
from tests.conftest import MakeJob
from tests.entry import memory
from tests.unit.test_estimate import SHAPE, WIDE, allocated


@pytest.mark.parametrize("method", ["loha", "lokr", "dora"])
@pytest.mark.parametrize("settings", [["memory.activations=keep"], ["batch_size=2", "model.dtype=bfloat16"]], ids=str)
def test_adapters_other_than_lora_are_near_what_the_allocator_gives(
    make_job: MakeJob, method: str, settings: list[str]
) -> None:
    job = make_job(*WIDE, f"method={method}", *settings)
    assert trace_steps(job, SHAPE, {SHAPE}, "cpu").peak.total() == pytest.approx(allocated(job), rel=0.02)


def test_the_command_predicts_them(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert memory(["-m", "method=loha,lokr"]) == 0
    assert Path("outputs/memory/grid.json").is_file()
