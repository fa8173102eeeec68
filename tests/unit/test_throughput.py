"""What the training loop counts as work, and the cards it knows."""

import pytest
import torch

from cogvx_exp.config.schema import Hardware
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.estimate.time.cards import card_of, cards_for, is_card
from cogvx_exp.estimate.time.flops import FlopCount, Shape
from cogvx_exp.training.monitor.throughput import WorkMeter
from tests.conftest import MakeJob


def test_recomputation_is_no_work(make_job: MakeJob) -> None:
    config = make_job().model.transformer.model_dump()
    latents = torch.randn(2, 3, config["in_channels"], 8, 12)
    batch = Batch(latents, latents, torch.tensor([3, 500]), torch.randn(2, 24, 32), [0, 1], ["a", "b"])
    trained = {"proj_out.weight": (64, 64)}
    work = WorkMeter(config, trained).of(batch)
    assert work.clips == 2
    assert work.tokens == 2 * (3 * 4 * 6 + 24)
    shape = Shape(2, 3, 8, 12, 24)
    for activations in ("keep", "checkpoint"):
        assert work.flops == FlopCount(config, trained, activations).training(shape).model
    assert work.flops < FlopCount(config, {"transformer_blocks.0.attn1.to_q.weight": (64, 64)}).training(shape).model


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100_pcie"),
        ("NVIDIA H100 NVL", "h100_nvl"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
    ],
)
def test_a_device_is_known_by_its_name(name: str, known: str) -> None:
    card = card_of(name)
    assert card is not None
    assert card.name == known
    assert [one.name for one in cards_for(Hardware(), name)] == [known]


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA GeForce RTX 4090 D"])
def test_another_device_is_not_taken_for_it(name: str) -> None:
    assert card_of(name) is None
    assert cards_for(Hardware(), name) == []


def test_settings_replace_the_cards_own() -> None:
    plain, given = cards_for(Hardware(), None), cards_for(Hardware(matmul_efficiency=0.11, price_per_hour=3.0), None)
    assert [card.name for card in given] == ["a100", "h100", "rtx4090"]
    assert {card.matmul_efficiency for card in given} == {0.11}
    assert {card.price_per_hour for card in given} == {3.0}
    assert [card.peak_tflops for card in given] == [card.peak_tflops for card in plain]
    own = Hardware(name="mine", device="H100 Mine", peak_tflops=10)
    assert cards_for(own, "NVIDIA H100") == [own]
    assert is_card(own, "NVIDIA H100 Mine 2")
    assert not is_card(own, "NVIDIA H100 80GB HBM3")
    assert not is_card(Hardware(name="h100", device="H100"), "NVIDIA H100 PCIe")
