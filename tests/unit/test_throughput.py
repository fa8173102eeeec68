"""The work of a step, against torch's own count."""

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cogvx_exp.data.samples import Batch
from cogvx_exp.diffusion.denoise import model_inputs
from cogvx_exp.model.adapt import make_trainable
from cogvx_exp.training.throughput import WorkMeter
from tests.conftest import MakeJob


@pytest.mark.parametrize("method", ["lora", "sft"])
def test_counted_as_torch_counts(make_job: MakeJob, method: str) -> None:
    """At a size where what the formula leaves out (patches, time embedding, one vector a clip) is small."""
    job = make_job(f"method={method}", "model.transformer.num_attention_heads=16", "model.transformer.num_layers=4")
    # torch counts nothing for attention on a CPU, except where it is written out; an adapter's own work is left out.
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).requires_grad_(False)
    make_trainable(transformer, job.method.model_copy(update={"rank": 1} if method == "lora" else {}), 0)
    latents = torch.randn(2, 3, 4, 32, 48)
    text = torch.randn(2, 226, job.model.transformer.text_embed_dim)
    batch = Batch(latents, latents, torch.tensor([3, 500]), text, [0, 1], ["a", "b"])
    inputs = model_inputs(latents, batch, transformer.config, torch.float32)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        transformer(**inputs, return_dict=False)[0].sum().backward()
    work = WorkMeter(transformer).of(batch)
    assert work.clips == 2
    assert work.tokens == 2 * (3 * 16 * 24 + 226)
    assert work.flops == pytest.approx(counter.get_total_flops(), rel=0.03)
