"""What sampling leaves behind."""

import gc
import weakref

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel

from cogvx_exp.evaluation.sampling import Sampler
from cogvx_exp.model.build import vae_arguments
from cogvx_exp.model.device import Compute
from tests.conftest import MakeJob


def test_the_vae_is_freed_with_the_sampler(make_job: MakeJob) -> None:
    """On a GPU it would otherwise stay beside the next training steps, until Python collects garbage."""
    model = make_job().model
    vae = AutoencoderKLCogVideoX(**vae_arguments(model.vae))
    transformer = CogVideoXTransformer3DModel(**model.transformer.model_dump())
    sampler = Sampler(transformer, vae, CogVideoXDDIMScheduler(), {}, Compute(torch.device("cpu"), torch.float32))
    freed = weakref.ref(vae)
    gc.collect()
    gc.disable()
    try:
        del sampler, vae
        assert freed() is None
    finally:
        gc.enable()
