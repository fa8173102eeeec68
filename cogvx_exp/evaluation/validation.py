"""Videos sampled while a model trains."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import Memory, Model
from cogvx_exp.evaluation.sampling import Sampler, VideoRequest, file_name, save_video
from cogvx_exp.model.device import Compute, release
from cogvx_exp.model.load import load_scheduler, load_vae
from cogvx_exp.tracking.progress import progress


@dataclass(frozen=True)
class Validator:
    """Samples a fixed list of videos whenever asked."""

    requests: list[VideoRequest]
    embeds: dict[str, torch.Tensor]
    """Embeddings of each prompt and negative prompt, (tokens, width)."""
    model: Model
    pipeline_folder: Path
    compute: Compute
    memory: Memory
    image_scale: str = "auto"
    offload: bool = False
    """Whether the transformer leaves the GPU while the VAE decodes."""

    def run(self, transformer: CogVideoXTransformer3DModel, folder: Path, step: int, **about: Any) -> list[Path]:
        """Samples all videos into `folder`, with `about` beside them. The VAE is loaded for this and released.

        The transformer comes back in the mode (training or evaluation) it was in.
        """
        was_training = transformer.training
        transformer.eval()
        vae = load_vae(self.pipeline_folder, self.compute, self.memory, self.image_scale)
        scheduler = load_scheduler(self.pipeline_folder, self.model.sampling.scheduler)
        sampler = Sampler(transformer, vae, scheduler, self.embeds, self.compute, offload=self.offload)
        paths = []
        try:
            for index, request in enumerate(progress(f"Sampling at step {step}", self.requests)):
                path = folder / file_name(index, request.prompt)
                save_video(path, sampler.sample(request), request, step=step, **about)
                paths.append(path)
        finally:
            transformer.train(was_training)
            del sampler, vae
            release(self.compute.device)
        return paths
