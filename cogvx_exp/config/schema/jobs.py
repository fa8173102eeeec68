"""The whole configuration of each entry point."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from cogvx_exp.config.schema.attention import Attention
from cogvx_exp.config.schema.data import Data
from cogvx_exp.config.schema.hardware import Hardware
from cogvx_exp.config.schema.model import Model
from cogvx_exp.config.schema.section import Device, FilledText, LocalPath, PathText, Section
from cogvx_exp.config.schema.task import Objective, Task
from cogvx_exp.config.schema.trackers import Tracker
from cogvx_exp.config.schema.training import (
    Checkpoint,
    Distributed,
    Export,
    Hub,
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


class TrainJob(Section):
    """Everything `python -m cogvx_exp.train` knows."""

    name: FilledText
    """Label of the run; part of its folder's name. Default: 5b-t2v-lora."""
    run_dir: LocalPath | None
    """Folder of the run. null: outputs/TIME_NAME, or the resumed run's folder. Default: null."""
    cache_dir: LocalPath
    """Folder shared between runs: encoded clips, demo clips, random models. Default: outputs/cache."""
    resume: PathText | None
    """latest: the newest checkpoint of `run_dir`, or of the newest run with the same model, task and method. auto: the
    newest checkpoint of `run_dir` if there is one, else start from scratch. A path: that checkpoint, or the newest one
    of that run; what the run has of later steps is moved to a branch. Changed settings of the optimizer and the
    schedule apply from the first resumed step. null: start from scratch. Default: null."""
    resume_changed: bool
    """Whether to resume although settings have changed that decide what the checkpoint's tensors mean. With another
    class of optimizer, its state starts empty. Default: false."""
    seed: NonNegativeInt
    """Seed of everything random. Default: 42."""
    device: Device
    """auto (a GPU if there is one), cpu, cuda or cuda:N. Default: auto."""
    allow_tf32: bool
    """Whether float32 matrix products on a GPU may use TensorFloat-32. Default: true."""
    compile: bool | Literal["blocks"]
    """blocks, or true: the transformer's blocks are compiled by torch.compile, which takes a minute or more before the
    first step. Default: false."""
    compile_dynamic: bool | None = None
    """With compile: whether a compiled block takes clips of any shape. null: the first shape has code of its own, and
    all others share one that takes any. false: each shape has its own. Default: null."""
    steps: PositiveInt
    """Optimizer steps. Default: 3000."""
    epochs: PositiveInt | None
    """Passes over the data; if set, replaces `steps`. Default: null."""
    batch_size: PositiveInt
    """Clips in a forward pass of one process. Default: 1."""
    gradient_accumulation: PositiveInt
    """Forward passes in an optimizer step. Default: 1."""
    max_grad_norm: PositiveFloat | None
    """Gradients are scaled down to this global norm; null: never. Default: 1.0."""
    ema_decay: float | None = Field(gt=0, lt=1)
    """Decay of a running average of the trained weights, which is then validated and exported.
    null: none. Default: null."""
    model: Model
    """The checkpoint."""
    task: Task
    """Text-to-video or image-to-video."""
    objective: Objective = Objective()
    """What the model is trained to do."""
    method: Method
    """Which weights are trained."""
    optim: Optim
    """The optimizer."""
    lr_scheduler: LrScheduler
    """The learning rate over the steps."""
    distributed: Distributed
    """Processes and machines."""
    data: Data
    """The clips."""
    validation: Annotated[Validation | NoValidation, Field(discriminator="name")]
    """Videos sampled during training."""
    memory: Memory
    """What stays in device memory."""
    attention: Attention = Attention()
    """The attention kernel."""
    quant: Quant
    """Storage of the frozen base."""
    hardware: Hardware = Hardware()
    """What the prediction of time assumes."""
    tracker: Tracker
    """Where metrics go besides the run folder."""
    checkpoint: Checkpoint
    """Training states that a run can resume from."""
    export: Export
    """The result."""
    hub: Hub
    """Publishing the result."""
    sweep: Sweep
    """The jobs of a sweep (`-m`)."""
    profile: Profile = Profile()
    """Where the time of a step goes."""


class Inspect(Section):
    """What `mode=inspect` shows."""

    output_dir: LocalPath
    """Folder for the page. Default: outputs/inspect."""
    clips: PositiveInt
    """Clips on the contact sheet. Default: 24."""


class PrepareJob(Section):
    """Everything `python -m cogvx_exp.prepare` knows."""

    mode: Literal["encode", "inspect"]
    """encode: fill the cache. inspect: show the dataset, as a table and as a page. Default: encode."""
    cache_dir: LocalPath
    """Folder shared between runs. Default: outputs/cache."""
    device: Device
    """auto (a GPU if there is one), cpu, cuda or cuda:N. Default: auto."""
    model: Model
    """The checkpoint whose encoders are used."""
    task: Task
    """For image-to-video, the clips' first frames are kept, too."""
    distributed: Distributed
    """Processes that share the work; they need not be able to talk to each other."""
    data: Data
    """The clips."""
    memory: Memory
    """Slicing and tiling of the VAE; the rest is about training."""
    inspect: Inspect
    """What mode=inspect shows."""


class Generate(SamplingSettings):
    """What `python -m cogvx_exp.generate` samples."""

    prompts: str | list[str]
    """Prompts, as a list, as one text with separators, or as a .txt file with one a line."""
    images: str | list[str] | None
    """i2v: paths or URLs of the images that the prompts start from, one for each prompt. Default: null."""
    reshape: Literal["center", "resize", "pad"]
    """i2v: how an image is brought to the video's size, as data.reshape. With a run of this project, as it was trained.
    Default: center."""
    num_videos: PositiveInt
    """Videos for each prompt, with seeds that count up. Default: 1."""
    adapter: LocalPath | list[LocalPath] | None
    """A run, export or checkpoint folder, a LoRA file of any usual naming of keys, or a list of them; null samples the
    base model. The run's own base model is used unless `model=` is given. Default: null."""
    weights: list[float] | None
    """Weight of each adapter, if there are several; null: 1 each. Default: null."""
    strength: float | list[float]
    """Scale of the adapters: 1 as trained, 0 off. A list makes one video that shows all of them side by side."""
    compare: bool
    """Whether the base model's video is shown next to it. Default: false."""
    replay: LocalPath | None
    """The .json next to a video: samples exactly that video again, and nothing else. Default: null."""
    output_dir: LocalPath
    """Folder for the videos. Default: outputs/generated."""


class GenerateJob(Section):
    """Everything `python -m cogvx_exp.generate` knows."""

    cache_dir: LocalPath
    """Folder shared between runs. Default: outputs/cache."""
    device: Device
    """auto (a GPU if there is one), cpu, cuda or cuda:N. Default: auto."""
    model: Model
    """The checkpoint."""
    memory: Memory
    """Slicing and tiling of the VAE, streaming of the blocks; the rest is about training."""
    attention: Attention = Attention()
    """The attention kernel."""
    generate: Generate
    """What is sampled, and how."""
