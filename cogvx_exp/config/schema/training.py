"""Groups of the training settings: method, optimizer, schedule, memory, validation."""

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from cogvx_exp.config.schema.section import Allowed, FilledText, Goal, LocalPath, Scores, Section, local_paths


class Method(Section):
    """Which weights are trained."""

    name: str
    """Name of the choice, as in `method=NAME`. Default: lora."""
    kind: Literal["adapter", "full"]
    """Whether the base stays frozen (adapter) or is trained (full). Default: adapter."""
    adapter: Literal["lora", "dora", "loha", "lokr"] | None = None
    """Kind of adapter, built by peft. Default: lora."""
    rank: PositiveInt | None = None
    """Adapters: rank of the update. Default: 128."""
    alpha: PositiveFloat | None = None
    """Adapters: the update is scaled by alpha / rank. Default: 128."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """lora: dropout on the adapter's input. Default: 0.0."""
    targets: list[str] | None = None
    """Adapters: name suffixes of the linear layers that get an adapter.
    Default: [to_q, to_k, to_v, to_out.0]."""
    init: Literal["default", "gaussian", "pissa", "olora"] | None = None
    """lora: initial weights. default: Kaiming for A, zero for B. Default: default."""
    init_from: LocalPath | None = None
    """lora: a run, export or checkpoint folder, or a file, with the LoRA to start from. lora_B is rescaled, so it
    starts at the same strength regardless of the two alphas. Rank and layers must match this run's. Default: null."""
    parameters: FilledText | None = None
    """sft: regular expression; only parameters whose names match are trained. null: all."""


class Optim(Section):
    """The optimizer."""

    name: str
    """Name of the choice, as in `optim=NAME`. Default: adamw."""
    target: str
    """Import path of the optimizer's class. Default: torch.optim.AdamW."""
    lr: NonNegativeFloat
    """Peak learning rate. Default: 1.0e-4."""
    scale_lr: bool
    """Whether the learning rate is multiplied by the effective batch size (batch size x accumulation x processes).
    Default: false."""
    betas: list[Annotated[float, Field(ge=0, lt=1)]] | None = Field(default=None, min_length=2, max_length=3)
    """Decay of the running averages of gradient and squared gradient. Default: [0.9, 0.95]."""
    eps: PositiveFloat | None = None
    """Added to the denominator. Default: 1.0e-8."""
    weight_decay: NonNegativeFloat
    """Weight decay. Default: 0.001."""
    decay_norms_and_biases: bool
    """Whether weight decay also applies to one-dimensional parameters (norms, biases). Default: true."""
    kwargs: dict[str, Any]
    """Further arguments of the class. Default: {}."""
    matrix_flag: str | None = None
    """muon: parameter group key that marks matrices."""
    state_values: NonNegativeFloat
    """Values the optimizer keeps per trained value, in the weight's own dtype (only for the memory prediction).
    Default: 2."""
    state_bytes: NonNegativeFloat
    """Additional bytes it keeps per trained value (only for the memory prediction). Default: 0."""
    rounding_argument: str | None = None
    """torchao: constructor argument that enables stochastic rounding."""
    stochastic_rounding: bool = False
    """Trains bfloat16 weights with stochastic rounding, so small updates are kept on average and no float32 copy of the
    weights is needed. Default: false."""
    offload: bool = False
    """Whether optimizer states live in host memory and the step runs there (torchao CPUOffloadOptimizer).
    Default: false."""
    offload_gradients: bool = False
    """With offload: whether each gradient is copied to the host and freed on the GPU as soon as it has accumulated.
    Default: false."""
    release_gradients: bool
    """Whether each parameter is stepped as soon as its gradient has accumulated, and the gradient freed: at most one
    gradient is in memory. Not with gradient_accumulation or max_grad_norm. Default: false."""


class LrScheduler(Section):
    """The learning rate schedule (diffusers.optimization.get_scheduler)."""

    name: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
    """Shape after the warm-up. Default: cosine_with_restarts."""
    warmup_steps: NonNegativeInt | None = None
    """Steps over which the learning rate rises from zero. Default: 400."""
    num_cycles: PositiveInt | None = None
    """cosine_with_restarts: how often the learning rate falls to zero. Default: 1."""
    power: PositiveFloat | None = None
    """polynomial: exponent of the decay."""


class Distributed(Section):
    """Processes and machines."""

    name: Literal["single", "ddp", "fsdp", "zero2", "zero2_offload", "zero3"]
    """single: one process. ddp: each process has the whole model. fsdp: weights, gradients and states are sharded
    (FSDP2). zero2: DeepSpeed shards gradients and states. zero2_offload: the same, with states on the host. zero3:
    DeepSpeed also shards the weights. Default: single."""
    processes: PositiveInt
    """Processes on this machine. Default: 1."""
    nodes: PositiveInt = 1
    """Number of machines. Default: 1."""
    node_rank: NonNegativeInt = 0
    """Rank of this machine. Default: 0."""
    rendezvous: Annotated[str, Field(pattern=r"^[^:]+:\d+$"), Allowed("HOST:PORT, such as node0:29500")] | None = None
    """With several machines: HOST:PORT of the machine with node_rank 0. Default: null."""
    timeout: PositiveInt | None = None
    """Seconds a process waits for the others within a training step (nccl_timeout in CogVideoX Factory)."""


class Memory(Section):
    """What is kept in device memory, recomputed or offloaded."""

    activations: Literal["keep", "checkpoint", "selective", "offload"]
    """keep: store all activations. checkpoint: store each block's input and recompute the rest in the backward pass.
    selective: store the attention output as well, so attention is not recomputed. offload: like checkpoint, with the
    blocks' inputs in host memory. Default: checkpoint."""
    stream_blocks: bool
    """Adapters: whether frozen block weights stay in host memory, with only two blocks on the GPU at a time: the
    current one and the next. Default: false."""
    ff_chunks: PositiveInt
    """Chunks in which a block's feed-forward layer is computed; each is recomputed in the backward pass. Default: 1."""
    norms: Literal["model", "float32"]
    """Dtype of the layer norms' outputs. model: the model's own, as in the diffusers pipelines. float32: like autocast
    on a GPU. Default: model."""
    vae_slicing: bool
    """Encode and decode one video of a batch at a time. Default: true."""
    vae_tiling: bool
    """Encode and decode large frames in tiles. Default: true."""
    budget: PositiveFloat | None
    """GiB that a run may use on the device; null: the GPU's free memory. Default: null."""
    preflight: bool
    """Whether `train` predicts its memory first and stops if it exceeds the budget or the host's memory. Without a GPU
    only if a budget is set. Default: true."""


class Quant(Section):
    """Quantization of the frozen base under an adapter."""

    name: Literal["none", "nf4", "int8", "fp8"]
    """none: the model's own dtype. Default: none."""
    compute: Literal["model", "8bit"] = "model"
    """int8, fp8: dtype of the matrix products of the attention and feed-forward layers. model: the model's dtype, with
    unpacked weights. 8bit: 8 bits, with tokens quantized on the fly, in the forward pass and for the gradient of the
    input; use with compile=blocks, otherwise it is slower. Default: model."""
    bytes_per_weight: PositiveFloat | None = None
    """Bytes per weight, including scales (only for the memory prediction)."""


class Checkpoint(Section):
    """Checkpoints of the training state."""

    every: PositiveInt
    """Steps between checkpoints; the last step is always saved. Default: 500."""
    keep: PositiveInt | None
    """How many of the newest are kept; null keeps all. Default: 3."""
    keep_best: bool | Goal
    """Whether the best one is also kept, and linked as `checkpoints/best`. true or loss: the lowest held-out loss (with
    data.holdout). score.NAME: the best score; a checkpoint is then also saved at each validation. Default: true."""
    background: bool
    """Whether they are written in the background. Default: true."""
    max_minutes: PositiveFloat | None
    """After this time the run saves its state and exits with code 75, to be resumed; null: no limit. Default: null."""


class Sweep(Section):
    """Jobs of a sweep (`-m`). Each runs in its own process."""

    resume: bool
    """Whether to resume the newest sweep started with this command: finished jobs are skipped, stopped and
    failed ones resume from their last checkpoint. Only on the command line. Default: false."""
    gpus: list[NonNegativeInt] | None
    """GPU indices for concurrent jobs (with a launcher that runs several at a time); null: each
    job sees all GPUs. Default: null."""
    gpus_per_job: PositiveInt
    """Exclusive GPUs per job, out of `gpus`. Default: 1."""
    objective: Goal = "loss"
    """Objective of a search. loss: the held-out loss if there is one, otherwise the mean training loss of the last
    tenth. score.NAME: that score of the last validation. Default: loss."""


class Profile(Section):
    """Records a few whole steps and breaks them down by part. `profile=true` is short for `profile.enabled=true`."""

    enabled: bool = False
    """Whether steps are recorded. Results are in RUN/profile and on the run's page. With several processes, only the
    first one is recorded. Default: false."""
    skip: NonNegativeInt = 3
    """Steps to skip at the start of the run or after its checkpoint, since the first ones are slower. Default: 3."""
    warmup: PositiveInt = 1
    """Following steps in which the profiler warms up without recording. Default: 1."""
    record: PositiveInt = 3
    """Following steps to record. Default: 3."""


class HeldOutLoss(Section):
    """Measurement of the held-out loss, also with validation=none."""

    loss_every: PositiveInt | None = None
    """Steps between measurements of the held-out loss (with data.holdout); null: only after the last
    step. Default: 500."""
    loss_timesteps: PositiveInt = 10
    """Number of evenly spaced timesteps at which the held-out loss is measured. Default: 10."""


class SamplingSettings(Section):
    """Sampling settings shared by validation and generate."""

    separator: str = Field(min_length=1)
    """Separator between prompts in one text. Default: ":::"."""
    negative_prompt: str
    """Prompt that guidance steers away from. Default: ""."""
    seed: NonNegativeInt
    """Seed of the initial noise; video i of a prompt uses seed + i. Default: 42."""
    num_frames: PositiveInt
    """Frames of the video. Default: 49."""
    height: PositiveInt
    """Height in pixels. Default: 480."""
    width: PositiveInt
    """Width in pixels. Default: 720."""
    fps: PositiveInt
    """Frames per second of the video file. Default: 8."""
    num_inference_steps: PositiveInt
    """Denoising steps. Default: 50."""
    guidance_scale: float = Field(ge=1)
    """Classifier-free guidance; 1 turns it off. Default: 6.0."""
    dynamic_cfg: bool
    """Whether guidance increases along a cosine during sampling. Default: true."""
    scores: Scores = Field(default_factory=dict)
    """Functions that rate each video: {NAME: {target: IMPORT_PATH, kwargs: {}, enabled: true, better: null}}.
    NAME=true and NAME=false switch one on or off; null: none."""

    @field_validator("images", "controls", mode="before", check_fields=False)
    @classmethod
    def _find_images(cls, images: Any, info: ValidationInfo) -> Any:
        return local_paths(images, info.data.get("separator", ":::"))


class Validation(HeldOutLoss, SamplingSettings):
    """Videos sampled during training, and the held-out loss."""

    name: Literal["default"]
    """default: sample videos. `validation=none` samples none, and only measures the held-out loss. Default: default."""
    prompts: str | list[str] | None
    """Prompts, as a list or as one text with separators. null: captions of held-out clips if there are any, otherwise
    of the first clips. Default: null."""
    num_prompts: PositiveInt
    """Number of captions used with prompts=null. Default: 1."""
    num_videos: PositiveInt
    """Videos per prompt. Default: 1."""
    every: PositiveInt | None
    """Steps between validations; null: only after the last step. Default: null."""
    every_epochs: PositiveInt | None
    """Epochs between validations, instead of `every`. Default: null."""
    images: str | list[str] | None
    """i2v: paths or URLs of the start images, one per prompt. null: the first frames of held-out clips if there are
    any, otherwise of the first clips. Default: null."""
    controls: str | list[str] | None = None
    """task=control: paths of control videos, one per prompt, with data.control=canny and the like of videos that they
    are computed from. null: those of held-out clips if there are any, otherwise of the first clips. Default: null."""
    baseline: bool
    """Whether to sample videos before the first step, for comparison. Default: true."""
    offload: bool
    """Whether the transformer leaves the GPU while the VAE decodes. A copy stays in host memory. Default: true."""


class NoValidation(HeldOutLoss):
    """No videos are sampled; the held-out loss is still measured."""

    name: Literal["none"]
    """none: no videos."""
