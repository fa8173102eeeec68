"""What only a GPU can show, on the tiny model. Skipped where there is none."""

from pathlib import Path

import pytest
import torch

from cogvx_exp.model import blocks
from cogvx_exp.tracking.run_folder import RunFolder, read_metrics
from tests.entry import train as main

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(autouse=True)
def park_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The activations of a tiny model are parked, too."""
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)


def losses(folder: Path, *settings: str) -> list[float]:
    shared = ["steps=4", "lr_scheduler=constant", "device=cuda", "model.dtype=bfloat16", f"run_dir={folder}"]
    assert main([*shared, *settings]) == 0
    return [line["loss"] for line in read_metrics(RunFolder(folder).metrics)]


@pytest.mark.parametrize(
    "settings",
    [
        ["optim=cpu_offload"],
        ["optim=cpu_offload", "optim.offload_gradients=false", "gradient_accumulation=2"],
        ["memory=24gb"],
        ["memory=16gb"],
        ["memory=12gb"],
        ["memory.activations=selective"],
        ["quant=nf4"],
        ["quant=int8"],
        ["quant=fp8"],
    ],
    ids=" ".join,
)
def test_losses_are_those_of_a_plain_run(settings: list[str], in_tmp: Path) -> None:
    accumulation = [text for text in settings if text.startswith("gradient_accumulation")]
    plain = losses(in_tmp / "plain", *accumulation)
    assert losses(in_tmp / "run", *settings) == pytest.approx(plain, rel=0.03)


@pytest.mark.parametrize("optim", ["adamw", "adamw8bit", "paged_adamw8bit", "ao_adamw8bit", "ao_adamw4bit", "muon"])
def test_optimizers_train(optim: str, in_tmp: Path) -> None:
    found = losses(in_tmp / "run", f"optim={optim}", "validation=none")
    assert all(loss == loss for loss in found)


def test_full_fine_tuning_on_the_host(in_tmp: Path) -> None:
    found = losses(in_tmp / "run", "method=sft", "optim=cpu_offload_bf16", "memory=24gb")
    assert all(loss == loss for loss in found)
