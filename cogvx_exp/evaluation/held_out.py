"""The loss on held-out clips, always at the same timesteps and with the same noise.

The training loss hardly shows whether a model learns, because it mostly depends on the random timesteps. This measure
is not random, so runs can be compared by it.
"""

import logging
from dataclasses import dataclass, replace

import torch

from cogvx_exp.diffusion.denoise import Loss
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.latents.dataset import EncodedClips
from cogvx_exp.loading.condition import load_condition_encoder, with_condition
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.model.device import release

logger = logging.getLogger(__name__)

SEED = 0
"""The same for all runs, whatever their seed, so that they are comparable."""


@dataclass(frozen=True)
class HeldOutLoss:
    """Measures the loss on held-out clips."""

    samples: TrainingSamples
    """Without dropout and flips."""
    clips: EncodedClips
    context: PipelineContext
    timesteps: list[int]
    loss: Loss

    @torch.no_grad()
    def measure(self, transformer: torch.nn.Module) -> dict[str, float]:
        """The mean loss, and the mean at each timestep as `loss_t0050`; processes share the work."""
        was_training = transformer.training
        # Without dropout, so that the loss does not depend on the step's random numbers.
        transformer.eval()
        compute = self.context.compute
        vae = load_condition_encoder(self.context)
        timesteps, processes = self.timesteps, self.context.processes
        items = [(clip, number) for clip in range(len(self.clips.names)) for number in range(len(timesteps))]
        measured: list[float] = []
        # All processes must run equally many passes: a sharded model needs all of them for each.
        for position in range(-(-len(items) // processes.world_size)):
            # Surplus passes repeat the last item, and their results are not read.
            clip, number = items[min(position * processes.world_size + processes.rank, len(items) - 1)]
            # Negative sample numbers: training never uses the same noise.
            batch = self.samples[SampleIndex(-1 - clip * len(timesteps) - number, clip)].to(compute.device)
            batch = replace(batch, timesteps=torch.full_like(batch.timesteps, timesteps[number]))
            batch = with_condition(batch, self.context, vae)
            with compute.autocast():
                measured.append(self.loss(transformer, batch).item())
        gathered = processes.all_gather(measured)
        by_timestep: dict[int, list[float]] = {timestep: [] for timestep in timesteps}
        for index, (_, number) in enumerate(items):
            by_timestep[timesteps[number]].append(gathered[index % processes.world_size][index // processes.world_size])
        logger.debug("held-out loss: %d clips x %d timesteps", len(self.clips.names), len(timesteps))
        del vae
        release(compute.device)
        transformer.train(was_training)
        means = {f"loss_t{timestep:04d}": sum(values) / len(values) for timestep, values in by_timestep.items()}
        return {"loss": sum(means.values()) / len(means), **means}


def fixed_timesteps(count: int, num_train_timesteps: int) -> list[int]:
    """Timesteps in the middle of `count` equal parts of the schedule."""
    return [int((index + 0.5) * num_train_timesteps / count) for index in range(count)]
