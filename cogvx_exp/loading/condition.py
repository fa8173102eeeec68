"""Adds the task's condition to batches."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.model.load import load_vae


def load_condition_encoder(context: PipelineContext) -> Any:
    """The VAE without its decoder if the task encodes in the training loop, otherwise None."""
    if not context.task.encoded_frames:
        return None
    vae = load_vae(context.folder, context.compute, context.memory, context.task.latent_scale)
    vae.decoder = None
    return vae


def conditioned(batches: Iterator[Batch], context: PipelineContext) -> Iterator[Batch]:
    """The batches with conditions."""
    vae = load_condition_encoder(context)
    for batch in batches:
        yield with_condition(batch, context, vae)


def with_condition(batch: Batch, context: PipelineContext, vae: Any) -> Batch:
    """The batch with its condition. `vae`: from `load_condition_encoder`."""
    return replace(batch, condition=context.task.condition(batch.extras, batch.latents, vae))
