"""What a diffusers pipeline calls its transformer with."""

from typing import Any

import pytest
import torch


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
