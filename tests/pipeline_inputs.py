"""Inputs of a transformer: what a diffusers pipeline calls it with, and some to compare outputs on."""

from typing import Any

import pytest
import torch

from cogvx_exp.model.positions import rotary_positions


class CapturedError(Exception):
    """Ends the pipeline when the transformer is called."""


def inputs_at(pipeline: Any, timestep: int, monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    """The transformer's inputs at one of training's timesteps. `arguments`: of the pipeline."""
    captured: dict[str, Any] = {}

    def capture(**given: Any) -> None:
        captured.update(given)
        raise CapturedError

    monkeypatch.setattr(pipeline.transformer, "forward", capture)
    scheduler = pipeline.scheduler
    # With as many steps as training has timesteps, every timestep is one of the sampler's.
    scheduler.set_timesteps(1000)
    first = [int(step) for step in scheduler.timesteps].index(timestep)
    original = scheduler.set_timesteps

    def only_from_there(*positional: Any, **keywords: Any) -> None:
        original(*positional, **keywords)
        scheduler.timesteps = scheduler.timesteps[first:]

    monkeypatch.setattr(scheduler, "set_timesteps", only_from_there)
    with pytest.raises(CapturedError), torch.no_grad():
        pipeline(**arguments, num_inference_steps=1000)
    return captured


def some_inputs(config: dict) -> dict[str, torch.Tensor]:
    """Inputs of a transformer for 3 latent frames of 4x6."""
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 3, config["in_channels"], 4, 6, generator=generator),
        "encoder_hidden_states": torch.randn(1, 226, config["text_embed_dim"], generator=generator),
        "timestep": torch.tensor([500]),
        "image_rotary_emb": rotary_positions(config, (3, 4, 6), torch.device("cpu")),
    }
