"""The groups that say how a model is trained: method, optimizer, schedule, memory, validation."""

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

from cogvx_exp.config.schema.section import Allowed, FilledText, LocalPath, Section, local_paths


class Method(Section):
    """Which weights are trained."""

    name: str
    """Name of the choice, as in `method=NAME`. Default: lora."""
    kind: Literal["adapter", "full"]
    """Whether the base stays frozen (adapter) or is trained itself (full). Default: adapter."""
    adapter: Literal["lora", "dora", "loha", "lokr"] | None = None
    """Form of the adapter, built by peft. Default: lora."""
    rank: PositiveInt | None = None
    """Adapters: rank of the update. Default: 128."""
    alpha: PositiveFloat | None = None
    """Adapters: the update is scaled by alpha / rank. Default: 128."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """lora: dropout on the adapter's input. Default: 0.0."""
    targets: list[str] | None = None
    """Adapters: endings of the names of the linear layers that get an adapter.
    Default: [to_q, to_k, to_v, to_out.0]."""
    init: Literal["default", "gaussian", "pissa", "olora"] | None = None
    """lora: initial weights. default: Kaiming for A, zero for B. Default: default."""
    init_from: LocalPath | None = None
    """lora: a run, export or checkpoint folder, or a file, with the LoRA to start from. lora_B is rescaled, so that it
    starts at the same strength whatever the two alphas are. Rank and layers must match this run's. Default: null."""
    parameters: FilledText | None = None
    """sft: regular expression; only parameters whose name has a match are trained. null: all."""


class Optim(Section):
    """The optimizer."""

    name: str
    """Name of the choice, as in `optim=NAME`. Default: adamw."""
    target: str
    """Class of the optimizer. Default: torch.optim.AdamW."""
    lr: NonNegativeFloat
    """Peak learning rate. Default: 1.0e-4."""
    scale_lr: bool
    """Whether the learning rate is multiplied by the samples in an optimizer step (batch size, accumulation,
    processes). Default: false."""
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
    """muon: key that tells the class which parameter groups are matrices."""
    state_values: NonNegativeFloat
    """Numbers the optimizer keeps for each trained value, in the weight's own type (for the prediction of
    memory only). Default: 2."""
    state_bytes: NonNegativeFloat
    """Bytes it keeps besides for each trained value (for the prediction of memory only). Default: 0."""
    rounding_argument: str | None = None
    """torchao: argument of the class that switches stochastic rounding on."""
    stochastic_rounding: bool = False
    """Trains bfloat16 weights, rounded up or down at random so that small updates are kept on average; no
    float32 copy of the weights is needed. Default: false."""
    offload: bool = False
    """Whether optimizer states live in host memory and the step is made there (torchao CPUOffloadOptimizer).
    Default: false."""
    offload_gradients: bool = False
    """With offload: whether each gradient is copied to the host and freed on the GPU as soon as it has accumulated.
    Default: false."""
    release_gradients: bool
    """Whether each parameter is stepped as soon as its gradient has accumulated, and the gradient freed: at most one
    gradient is in memory. Not with gradient_accumulation or max_grad_norm. Default: false."""


class LrScheduler(Section):
    """The learning rate over the steps (diffusers.optimization.get_scheduler)."""

    name: Literal["constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"]
    """Shape after the warm-up. Default: cosine_with_restarts."""
    warmup_steps: NonNegativeInt | None = None
    """Steps over which the rate rises from zero. Default: 400."""
    num_cycles: PositiveInt | None = None
    """cosine_with_restarts: how often the rate falls to zero. Default: 1."""
    power: PositiveFloat | None = None
    """polynomial: exponent of the fall."""


class Distributed(Section):
    """Processes and machines."""

    name: Literal["single", "ddp", "fsdp", "zero2", "zero2_offload", "zero3"]
    """single: one process. ddp: each process has all of the model. fsdp: weights, gradients and states are split
    (FSDP2). zero2: DeepSpeed splits gradients and states. zero2_offload: and keeps the states on the host. zero3: and
    splits the weights. Default: single."""
    processes: PositiveInt
    """Processes on this machine. Default: 1."""
    nodes: PositiveInt = 1
    """Machines. Default: 1."""
    node_rank: NonNegativeInt = 0
    """Number of this machine, from 0. Default: 0."""
    rendezvous: Annotated[str, Field(pattern=r"^[^:]+:\d+$"), Allowed("HOST:PORT, such as node0:29500")] | None = None
    """With several machines: HOST:PORT of the one with number 0. Default: null."""
    timeout: PositiveInt | None = None
    """Seconds that a process waits for the others within a training step (nccl_timeout in CogVideoX Factory)."""


class Memory(Section):
    """What stays in device memory, and what is recomputed or offloaded."""

    activations: Literal["keep", "checkpoint", "selective", "offload"]
    """keep: store all activations. checkpoint: store each block's input and compute the rest again in
    the backward pass. selective: store the attention's output, too, so that attention is not computed twice.
    offload: as checkpoint, with the blocks' inputs in host memory. Default: checkpoint."""
    stream_blocks: bool
    """Adapters: whether the frozen blocks' weights are in host memory, and on the GPU only those of two blocks: one
    that computes, and the next one. Default: false."""
    ff_chunks: PositiveInt
    """Parts in which a block's feed-forward layer is computed, each computed again in the backward pass.
    Default: 1."""
    norms: Literal["model", "float32"]
    """Type of the layer norms' results. model: the model's own, as in the diffusers pipelines. float32: as autocast
    makes them on a GPU. Default: model."""
    vae_slicing: bool
    """Encode and decode one video of a batch at a time. Default: true."""
    vae_tiling: bool
    """Encode and decode large frames in tiles. Default: true."""
    budget: PositiveFloat | None
    """GiB that a run may take on the device; null: what the GPU has. Default: null."""
    preflight: bool
    """Whether `train` predicts its memory first, and stops if it is above the budget, or above what the host has.
    Without a GPU only if a budget is set. Default: true."""


class Quant(Section):
    """Storage of the frozen base under an adapter."""

    name: Literal["none", "nf4", "int8", "fp8"]
    """none: the model's own type. Default: none."""
    compute: Literal["model", "8bit"] = "model"
    """int8, fp8: what the products of the attention and feed-forward layers are computed in. model: in the model's
    type, from unpacked weights. 8bit: in 8 bits, with the tokens quantized on the fly, forward and for the gradient of
    the input; with compile=blocks, else that costs more than it gains. Default: model."""
    bytes_per_weight: PositiveFloat | None = None
    """Bytes of a weight, scales included (for the prediction of memory only)."""


class Checkpoint(Section):
    """Training states that a run can resume from."""

    every: PositiveInt
    """Steps between two checkpoints; the last step is always saved. Default: 500."""
    keep: PositiveInt | None
    """How many of the newest stay on disk; null keeps all. Default: 3."""
    keep_best: bool
    """Whether the one with the lowest held-out loss stays, too (with data.holdout). Default: true."""
    background: bool
    """Whether they are written while training goes on. Default: true."""
    max_minutes: PositiveFloat | None
    """After this time the run saves its state and exits with code 75, to be resumed; null: never. Default: null."""


class Export(Section):
    """The result of a run."""

    merge: bool
    """Whether an adapter is also merged into the base and written as a whole transformer. Default: false."""


class Hub(Section):
    """Publishing the result on the Hugging Face Hub."""

    push: bool
    """Whether the export is pushed after training. Default: false."""
    repo: str | None
    """Repository to push to, as owner/name. The token comes from the environment (HF_TOKEN) or the Hub's
    login. Default: null."""
    private: bool
    """Whether a new repository is private. Default: false."""
    dry_run: bool
    """Writes the folder that would be pushed (RUN/hub), and pushes nothing, with or without `push`. Default: false."""


class Sweep(Section):
    """The jobs of a sweep (`-m`). Each runs in a process of its own."""

    resume: bool
    """Whether to resume the newest sweep that was started with this command: finished jobs are skipped; stopped and
    failed ones resume from their last checkpoint. On the command line only. Default: false."""
    gpus: list[NonNegativeInt] | None
    """GPUs, by number, on which concurrent jobs are placed (with a launcher that runs several at a time); null: each
    job sees all GPUs. Default: null."""
    gpus_per_job: PositiveInt
    """GPUs of `gpus` that each job gets exclusively. Default: 1."""


class Profile(Section):
    """Records some whole steps and shows what they are made of: `profile=true` is short for `profile.enabled=true`."""

    enabled: bool = False
    """Whether steps are recorded. The results are in RUN/profile and on the run's page. Of several processes, the first
    one is recorded. Default: false."""
    skip: NonNegativeInt = 3
    """Steps that are not recorded, at the start of the run or after its checkpoint: they are slower than others.
    Default: 3."""
    warmup: PositiveInt = 1
    """Steps after them in which the profiler is on and drops what it sees. Default: 1."""
    record: PositiveInt = 3
    """Steps after them that are recorded. Default: 3."""


class HeldOutLoss(Section):
    """How the loss on held-out clips is measured; with validation=none, too."""

    loss_every: PositiveInt | None = None
    """Steps between two measurements of the held-out loss (with data.holdout); null: only after the last
    step. Default: 500."""
    loss_timesteps: PositiveInt = 10
    """How many timesteps, evenly over the schedule, the held-out loss is measured at. Default: 10."""


class SamplingSettings(Section):
    """How a video is sampled; shared by validation and generate."""

    separator: str = Field(min_length=1)
    """Text that separates prompts given in one string. Default: ":::"."""
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
    """Frames a second of the file that is written. Default: 8."""
    num_inference_steps: PositiveInt
    """Denoising steps. Default: 50."""
    guidance_scale: float = Field(ge=1)
    """Classifier-free guidance; 1 is none. Default: 6.0."""
    dynamic_cfg: bool
    """Whether guidance rises along a cosine during sampling. Default: true."""

    @field_validator("images", mode="before", check_fields=False)
    @classmethod
    def _find_images(cls, images: Any, info: ValidationInfo) -> Any:
        return local_paths(images, info.data.get("separator", ":::"))


class Validation(HeldOutLoss, SamplingSettings):
    """Videos sampled during training, and the held-out loss."""

    name: Literal["default"]
    """default: sample videos. `validation=none` samples none, and measures the held-out loss only. Default: default."""
    prompts: str | list[str] | None
    """Prompts, as a list or as one text with separators. null: captions of held-out clips if there are any, else of the
    first ones. Default: null."""
    num_prompts: PositiveInt
    """How many captions are taken with prompts=null. Default: 1."""
    num_videos: PositiveInt
    """Videos for each prompt. Default: 1."""
    every: PositiveInt | None
    """Steps between two validations; null: only after the last step. Default: null."""
    every_epochs: PositiveInt | None
    """Epochs between two validations, instead of `every`. Default: null."""
    images: str | list[str] | None
    """i2v: paths or URLs of the images that the prompts start from, one for each prompt. null: the
    first frames of held-out clips if there are any, else of the first ones. Default: null."""
    baseline: bool
    """Whether the videos are also sampled before the first step, to compare with. Default: true."""
    offload: bool
    """Whether the transformer leaves the GPU while the VAE decodes. Its copy stays in host memory. Default: true."""


class NoValidation(HeldOutLoss):
    """No videos are sampled; the held-out loss is measured all the same."""

    name: Literal["none"]
    """none: no videos."""
