"""The whole configuration of each entry point."""

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cogvx_exp.config.schema.attention import Attention
from cogvx_exp.config.schema.data import Data
from cogvx_exp.config.schema.footage.caption import Caption
from cogvx_exp.config.schema.footage.filter import Filter
from cogvx_exp.config.schema.footage.review import Review
from cogvx_exp.config.schema.footage.split import Split
from cogvx_exp.config.schema.hardware import Hardware
from cogvx_exp.config.schema.model import Model
from cogvx_exp.config.schema.section import Device, FilledText, LocalPath, PathText, Section
from cogvx_exp.config.schema.task import Objective, Task
from cogvx_exp.config.schema.trackers import Export, Hub, Tracker
from cogvx_exp.config.schema.training import (
    Checkpoint,
    Distributed,
    LrScheduler,
    Memory,
    Method,
    NoValidation,
    Optim,
    Profile,
    Quant,
    SamplingSettings,
    Sweep,
    Validation,
)


class _DataJob(Section):
    """A job with clips for a task."""

    @model_validator(mode="before")
    @classmethod
    def _find_controls(cls, values: Any) -> Any:
        """data.control=null means files or masks, if the task needs such videos."""
        task, data = (values.get(name) if isinstance(values, dict) else None for name in ("task", "data"))
        if not isinstance(task, dict) or not isinstance(data, dict):
            return values
        needed = {"video": "files", "mask": "masks" if task.get("masks") == "files" else None}.get(
            str(task.get("condition")) if task.get("name") == "control" else ""
        )
        return values | {"data": data | {"control": needed}} if needed and data.get("control") is None else values


class TrainJob(_DataJob):
    """The configuration of `python -m cogvx_exp.train`."""

    name: FilledText
    """Label of the run; part of its folder's name. Default: 5b-t2v-lora."""
    run_dir: LocalPath | None
    """Folder of the run. null: outputs/TIME_NAME, or the resumed run's folder. Default: null."""
    cache_dir: LocalPath
    """Folder shared between runs: encoded clips, demo clips, random models. Default: outputs/cache."""
    resume: PathText | None
    """latest: the newest checkpoint of `run_dir`, or of the newest run with the same model, task and method. auto: the
    newest checkpoint of `run_dir` if there is one, otherwise start from scratch. A path: that checkpoint, or the newest
    one of that run; later steps of the run are moved to a branch. Changed settings of the optimizer and the schedule
    apply from the first resumed step. null: start from scratch. Default: null."""
    resume_changed: bool
    """Whether to resume although settings that determine the meaning of the checkpoint's tensors have changed. A
    different optimizer class starts with an empty state. Default: false."""
    seed: NonNegativeInt
    """Random seed. Default: 42."""
    device: Device
    """auto (a GPU if available), cpu, cuda or cuda:N. Default: auto."""
    allow_tf32: bool
    """Whether float32 matrix products on a GPU may use TensorFloat-32. Default: true."""
    compile: bool | Literal["blocks"]
    """blocks, or true: compile the transformer blocks with torch.compile, which takes a minute or more before the first
    step. Default: false."""
    compile_dynamic: bool | None = None
    """With compile: whether compiled code accepts clips of any shape. null: code for the first shape, shared code for
    all others. true: shared code from the start. false: code for each shape. Default: null."""
    steps: PositiveInt
    """Optimizer steps. Default: 3000."""
    epochs: PositiveInt | None
    """Passes over the data; if set, replaces `steps`. Default: null."""
    batch_size: PositiveInt
    """Clips per forward pass and process. Default: 1."""
    gradient_accumulation: PositiveInt
    """Forward passes per optimizer step. Default: 1."""
    max_grad_norm: PositiveFloat | None
    """Maximum global norm of the gradients; null: no clipping. Default: 1.0."""
    ema_decay: float | None = Field(gt=0, lt=1)
    """Decay of an exponential moving average of the trained weights, which is then validated and exported. null: no
    EMA. Default: null."""
    model: Model
    """The checkpoint."""
    task: Task
    """Text-to-video, or what else the model is conditioned on."""
    objective: Objective = Objective()
    """Timestep sampling, weighting and error."""
    method: Method
    """Which weights are trained."""
    optim: Optim
    """The optimizer."""
    lr_scheduler: LrScheduler
    """Learning rate schedule."""
    distributed: Distributed
    """Processes and machines."""
    data: Data
    """The clips."""
    validation: Annotated[Validation | NoValidation, Field(discriminator="name")]
    """Videos sampled during training."""
    memory: Memory
    """What is kept in device memory."""
    attention: Attention = Attention()
    """The attention kernel."""
    quant: Quant
    """Quantization of the frozen base."""
    hardware: Hardware = Hardware()
    """What the prediction of time assumes."""
    tracker: Tracker
    """Where metrics go besides the run folder."""
    checkpoint: Checkpoint
    """Checkpoints of the training state."""
    export: Export
    """The result."""
    hub: Hub
    """Publishing the result."""
    sweep: Sweep
    """Jobs of a sweep (`-m`)."""
    profile: Profile = Profile()
    """Where the time of a step goes."""


class Inspect(Section):
    """What `mode=inspect` shows."""

    output_dir: LocalPath
    """Folder of the page. Default: outputs/inspect."""
    clips: PositiveInt
    """Clips on the contact sheet. Default: 24."""


class PrepareJob(_DataJob):
    """The configuration of `python -m cogvx_exp.prepare`."""

    mode: Literal["encode", "inspect", "split", "filter", "caption", "review"]
    """encode: fill the cache. inspect: show the dataset, as a table and as a page. split: find clips in long videos.
    filter: score clips and exclude bad ones. caption: write captions with a vision-language model. review: a page on
    which captions can be corrected. Default: encode."""
    cache_dir: LocalPath
    """Folder shared between runs. Default: outputs/cache."""
    device: Device
    """auto (a GPU if available), cpu, cuda or cuda:N. Default: auto."""
    model: Model
    """The checkpoint whose encoders are used."""
    task: Task
    """What is stored besides the clips: first frames for image-to-video, condition videos for control."""
    distributed: Distributed
    """Processes that share the work; they need no network connection between them."""
    data: Data
    """The clips."""
    memory: Memory
    """Slicing and tiling of the VAE; the other settings only affect training."""
    inspect: Inspect
    """What mode=inspect shows."""
    split: Split
    """How mode=split finds clips in long videos."""
    filter: Filter
    """Which clips mode=filter keeps."""
    caption: Caption
    """How mode=caption writes captions."""
    review: Review
    """What mode=review shows."""


class Generate(SamplingSettings):
    """What `python -m cogvx_exp.generate` samples."""

    prompts: str | list[str]
    """Prompts, as a list, as one text with separators, or as a .txt file with one per line."""
    images: str | list[str] | None
    """i2v: paths or URLs of the start images, one per prompt. Default: null."""
    controls: str | list[str] | None = None
    """task=control: paths of control videos, one per prompt. For an adapter trained with computed controls, or with a
    condition other than video, those of the videos that they are computed from; `video of PATH` is used as it is.
    Default: null."""
    reshape: Literal["center", "resize", "pad"]
    """How an image or control video is resized, like data.reshape. Adapters of this project use their run's value.
    Default: center."""
    num_videos: PositiveInt
    """Videos per prompt, with consecutive seeds. Default: 1."""
    adapter: LocalPath | list[LocalPath] | None
    """A run, export or checkpoint folder, a LoRA file in any common key format, or a list of them; null samples the
    base model. The run's own base model is used unless `model=` is given. Default: null."""
    weights: list[float] | None
    """Weight of each adapter, if there are several; null: 1 each. Default: null."""
    strength: float | list[float]
    """Scale of the adapters: 1 as trained, 0 off. A list gives one video with all of them side by side."""
    compare: bool
    """Whether to show the base model's video next to it. Default: false."""
    replay: LocalPath | None
    """The .json next to a video: samples exactly that video again. Default: null."""
    output_dir: LocalPath
    """Folder for the videos. Default: outputs/generated."""


class GenerateJob(Section):
    """The configuration of `python -m cogvx_exp.generate`."""

    cache_dir: LocalPath
    """Folder shared between runs. Default: outputs/cache."""
    device: Device
    """auto (a GPU if available), cpu, cuda or cuda:N. Default: auto."""
    model: Model
    """The checkpoint."""
    memory: Memory
    """Slicing and tiling of the VAE, streaming of the blocks; the other settings only affect training."""
    attention: Attention = Attention()
    """The attention kernel."""
    compile: bool | Literal["blocks"] = False
    """blocks, or true: compile the transformer blocks with torch.compile, which takes a minute or more before the first
    video, and again for each strength. Default: false."""
    generate: Generate
    """What is sampled, and how."""
