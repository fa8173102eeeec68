"""Groups `task` and `objective`."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from cogvx_exp.config.schema.section import FilledText, Section


class Task(Section):
    """What the model is conditioned on."""

    name: Literal["t2v", "i2v", "control"]
    """t2v: text. i2v: text and the clip's first frame. control: text and what `condition` says. Default: t2v."""
    target: FilledText | None = None
    """Class of the task. Default: cogvx_exp.tasks.text_to_video.TextToVideo."""
    condition: Literal["first", "video", "first_last", "prefix", "mask"] | None = None
    """control: first: the first frame, as in i2v. video: a control video (data.control). The others hide a part of the
    clip. first_last: all but the first and the last frame. prefix: all but the first frames. mask: what a mask covers.
    """
    condition_dropout: float | None = Field(default=None, ge=0, le=1)
    """i2v, control: fraction of the samples trained without the condition."""
    prefix_frames: tuple[PositiveInt, PositiveInt] | None = None
    """condition=prefix: the fewest and the most frames shown, 4N+1; a sample shows any such number between them."""
    masks: PositiveInt | Literal["files"] | None = None
    """condition=mask: number of random masks per clip (boxes and strokes), of which each sample uses one; or files: the
    clip's mask video (data.mask_column)."""
    image_noise_mean: float | None = None
    """condition=first: the image's noise is exp(N(mean, std)), for pixels in [-1, 1]."""
    image_noise_std: NonNegativeFloat | None = None
    """condition=first: see image_noise_mean."""
    image_scale: Literal["auto", "multiply", "divide"] | None = None
    """condition=first: whether the image latent is multiplied or divided by the VAE's scaling factor. auto: like the
    checkpoint's diffusers pipeline (1.5 divides). Public trainers multiply for 1.5 as well."""


class Objective(Section):
    """What the model is trained to do: three functions, named by import path."""

    name: str = "default"
    """Name of the choice, as in `objective=NAME`. Default: default."""
    timesteps: FilledText = "cogvx_exp.diffusion.objective.uniform"
    """Maps (timesteps of the noise schedule, torch.Generator) to the timestep of one sample.
    Default: cogvx_exp.diffusion.objective.uniform."""
    weighting: FilledText = "cogvx_exp.diffusion.objective.unweighted"
    """Maps the alphas_cumprod at each sample's timestep, (B,), to the weights of their errors, (B,).
    Default: cogvx_exp.diffusion.objective.unweighted."""
    error: FilledText = "cogvx_exp.diffusion.objective.squared_error"
    """Maps (prediction, target) to the error of each sample, (B,).
    Default: cogvx_exp.diffusion.objective.squared_error."""
