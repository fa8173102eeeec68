"""Two processes on two software GPUs, by nccl over gloo, against one process on the CPU."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.software_cuda.runs import Case, Outcome, run_all

pytestmark = pytest.mark.cuda_matrix

SHARED = ["steps=4", "checkpoint.every=2", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false"]
SHARED += ["data.decode_workers=1", "data.holdout=2"]
SHORT = ["validation.num_inference_steps=1"]
VALIDATION = ["validation.every=2", "validation.baseline=true", "validation.offload=true"]
WAYS = [
    ("ddp", ["ema_decay=0.9", "optim=adamw8bit"]),
    ("ddp", ["memory=12gb"]),
    ("fsdp", []),
    ("fsdp", ["method=sft", "ema_decay=0.9", "max_grad_norm=0.01"]),
    ("fsdp", ["method.init=pissa", "optim=adamw8bit"]),
    ("zero2", []),
    ("zero2", ["method=sft"]),
    ("zero3", []),
    ("zero3", ["method=sft"]),
]


def run(folder: Path, cases: dict[str, list[str]], videos: Sequence[str] = SHORT) -> dict[str, Outcome]:
    """Runs cases one after the other; each has its own folder. `videos`: settings of the validation."""
    shared = [*SHARED, *videos, f"cache_dir={folder}/cache"]
    found = run_all([Case([*shared, f"run_dir={folder}/{name}", *more]) for name, more in cases.items()], devices=2)
    return dict(zip(cases, found, strict=True))


def agree(ours: Outcome, theirs: Outcome, rel: float = 1e-4) -> None:
    for outcome in (ours, theirs):
        assert outcome.code == 0, outcome.text[-4000:]
    assert len(ours.metrics) == 4
    for key in ("loss", "grad_norm"):
        expected = [line[key] for line in theirs.metrics]
        assert [line[key] for line in ours.metrics] == pytest.approx(expected, rel=rel), key


def test_gradients_are_averaged_also_after_videos_were_sampled(tmp_path: Path) -> None:
    """The transformer leaves the GPU while the VAE decodes, before the first step and between steps."""
    found = run(
        tmp_path,
        {
            "two": ["device=cuda", "distributed=ddp", *VALIDATION],
            "one": ["device=cpu", "gradient_accumulation=2", "validation.baseline=false"],
        },
    )
    agree(found["two"], found["one"])


@pytest.mark.parametrize(("how", "more"), WAYS)
def test_every_strategy_trains_samples_and_resumes(how: str, more: list[str], tmp_path: Path) -> None:
    """The last run goes on from the second step of one process."""
    shared = [*more, f"distributed={how}", "device=cuda"]
    alone = [*more, "device=cpu", "gradient_accumulation=2"]
    found = run(tmp_path, {"one": alone, "two": [*shared, *VALIDATION]})
    agree(found["two"], found["one"])
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "step-000004")
    again = run(tmp_path, {"two": [*shared, *VALIDATION, "resume=latest"]})
    agree(again["two"], found["one"])


def test_processes_round_stochastically_alike(tmp_path: Path) -> None:
    """They draw at random, and must draw the same: else their weights part, which no checkpoint would let through."""
    rounded = ["optim=ao_adamw8bit", "optim.stochastic_rounding=true", "model.dtype=bfloat16"]
    found = run(tmp_path, {"two": [*rounded, "device=cuda", "distributed=ddp"]})
    assert found["two"].code == 0, found["two"].text[-3000:]


@pytest.mark.parametrize(
    "settings",
    [
        ["optim=ao_adamw8bit", "model.dtype=bfloat16"],
        ["optim=ao_adamw", "optim.stochastic_rounding=true", "model.dtype=bfloat16"],
        ["optim=muon"],
        ["optim=schedule_free"],
    ],
    ids=" ".join,
)
def test_optimizers_step_with_parts_of_weights(settings: list[str], tmp_path: Path) -> None:
    """As with whole ones, but for rounding; one process goes on from their checkpoint, and they from that of one."""
    alone, shared = ["gradient_accumulation=2", "distributed=single"], [*settings, "method=sft", "device=cuda"]
    together = ["distributed=fsdp"]
    cases = {"one": [*shared, *alone], "two": [*shared, *together]}
    found = run(tmp_path, cases, ["validation=none"])
    tolerance = 1e-2 if "model.dtype=bfloat16" in settings else 1e-4
    agree(found["two"], found["one"], tolerance)
    for name in cases:
        shutil.rmtree(tmp_path / name / "checkpoints" / "step-000004")
    cases = {"one": [*shared, *together, "resume=latest"], "two": [*shared, *alone, "resume=latest"]}
    again = run(tmp_path, cases, ["validation=none"])
    agree(again["two"], found["one"], tolerance)
    agree(again["one"], found["two"], tolerance)
