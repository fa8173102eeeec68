"""The work of a step, against torch's own count."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import model_inputs
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.training.monitor.throughput import PEAK_TFLOPS, WorkMeter, _peak_of
from tests.conftest import MakeJob


@pytest.mark.parametrize("method", ["lora", "sft"])
def test_counted_as_torch_counts(make_job: MakeJob, method: str) -> None:
    """At a size where what the formula leaves out (patches, time embedding, one vector a clip) is small."""
    job = make_job(f"method={method}", "model.transformer.num_attention_heads=16", "model.transformer.num_layers=4")
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    # An adapter's own work is not in the formula, so it is to be small.
    make_trainable(transformer, job.method.model_copy(update={"rank": 1} if method == "lora" else {}), 0)
    latents = torch.randn(2, 3, 4, 32, 48)
    text = torch.randn(2, 226, job.model.transformer.text_embed_dim)
    batch = Batch(latents, latents, torch.tensor([3, 500]), text, [0, 1], ["a", "b"])
    inputs = model_inputs(latents, batch, transformer.config, torch.float32)
    # On a CPU, torch counts attention only where it is written out.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        transformer(**inputs, return_dict=False)[0].sum().backward()
    shapes = {name: tuple(weight.shape) for name, weight in trainable_parameters(transformer).items()}
    work = WorkMeter(transformer.config, shapes).of(batch)
    assert work.clips == 2
    assert work.tokens == 2 * (3 * 16 * 24 + 226)
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
    ],
)
def test_a_device_is_known_by_its_name(name: str, known: str) -> None:
    assert _peak_of(name) == PEAK_TFLOPS[known] * 1e12


@pytest.mark.parametrize("name", ["NVIDIA L40", "NVIDIA RTX A4000", "NVIDIA RTX A1000", "NVIDIA GeForce RTX 4090 D"])
def test_another_device_is_not_taken_for_it(name: str) -> None:
    assert _peak_of(name) is None
