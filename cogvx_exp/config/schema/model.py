"""Group `model`: facts about a checkpoint."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from cogvx_exp.config.schema.section import FilledText, PathText, Section

Dtype = Literal["float32", "float16", "bfloat16"]


class Native(Section):
    """The shape of video a checkpoint was trained on."""

    num_frames: PositiveInt
    """Frames of a native clip."""
    height: PositiveInt
    """Height in pixels."""
    width: PositiveInt
    """Width in pixels."""
    fps: PositiveInt
    """Frames per second."""


class Sampling(Section):
    """The authors' sampling settings; `validation` and `generate` default to these."""

    scheduler: Literal["ddim", "dpm"]
    """Sampler: ddim (2b) or dpm (5b and 1.5)."""
    num_inference_steps: PositiveInt
    """Denoising steps."""
    guidance_scale: float = Field(ge=1)
    """Classifier-free guidance; 1 turns it off."""
    dynamic_cfg: bool
    """Whether guidance increases along a cosine during sampling."""


class DefaultLr(Section):
    """Default learning rates."""

    adapter: PositiveFloat
    """For LoRA and other adapters."""
    full: PositiveFloat
    """For full fine-tuning."""


class TrainingDefaults(Section):
    """Settings that suit a model; other groups refer to them, so that a model brings its own defaults."""

    lr: DefaultLr
    """Learning rates, read by `optim.lr`."""
    rank: PositiveInt
    """Read by `method.rank`."""
    steps: PositiveInt
    """Read by `steps`."""
    warmup_steps: int = Field(ge=0)
    """Read by `lr_scheduler.warmup_steps`."""
    checkpoint_every: PositiveInt
    """Read by `checkpoint.every`."""
    activations: Literal["keep", "checkpoint", "selective", "offload"]
    """Read by `memory.activations`."""
    num_prompts: PositiveInt
    """Read by `validation.num_prompts`."""
    batch_size: PositiveInt
    """Read by `batch_size`."""


class TransformerArchitecture(Section):
    """Arguments of diffusers' CogVideoXTransformer3DModel that differ between checkpoints."""

    num_layers: PositiveInt
    """Transformer blocks."""
    num_attention_heads: PositiveInt
    """Attention heads per block."""
    attention_head_dim: PositiveInt
    """Channels per head."""
    in_channels: PositiveInt
    """Input latent channels: twice `out_channels` for image-to-video."""
    out_channels: PositiveInt
    """Output latent channels."""
    text_embed_dim: PositiveInt
    """Width of a text embedding."""
    max_text_seq_length: PositiveInt
    """Text tokens per prompt; longer prompts are truncated."""
    time_embed_dim: PositiveInt
    """Width of the timestep embedding."""
    ofs_embed_dim: PositiveInt | None
    """Width of the ofs embedding (1.5 image-to-video only)."""
    sample_height: PositiveInt
    """Native height in latent pixels."""
    sample_width: PositiveInt
    """Native width in latent pixels."""
    sample_frames: PositiveInt
    """Native number of frames (of pixels, not latents)."""
    patch_size: PositiveInt
    """Latent pixels on each side of a patch."""
    patch_size_t: PositiveInt | None
    """Latent frames per patch (1.5 only)."""
    patch_bias: bool
    """Whether the patch projection has a bias."""
    temporal_compression_ratio: PositiveInt
    """Video frames per latent frame."""
    spatial_interpolation_scale: PositiveFloat
    """Scale of the sin-cos positions in space."""
    temporal_interpolation_scale: PositiveFloat
    """Scale of the sin-cos positions in time."""
    use_rotary_positional_embeddings: bool
    """Rotary (5b, 1.5) or sin-cos (2b) positions."""
    use_learned_positional_embeddings: bool
    """Whether learned positions are added (5b-I2V only)."""


class VaeArchitecture(Section):
    """Arguments of diffusers' AutoencoderKLCogVideoX that differ between checkpoints."""

    block_out_channels: list[PositiveInt]
    """Channels of each level; each level after the first halves height and width."""
    layers_per_block: PositiveInt
    """Residual layers per level."""
    latent_channels: PositiveInt
    """Channels of a latent."""
    norm_num_groups: PositiveInt
    """Groups of the group norms."""
    temporal_compression_ratio: PositiveInt
    """Video frames per latent frame."""
    scaling_factor: PositiveFloat
    """Factor that scales latents to about unit variance."""
    invert_scale_latents: bool
    """Whether the 1.5 pipelines divide image latents by the factor."""

    @property
    def spatial_compression_ratio(self) -> int:
        """Pixels per latent pixel, on each side."""
        return int(2 ** (len(self.block_out_channels) - 1))


class TextEncoderArchitecture(Section):
    """Arguments of transformers' T5Config."""

    d_model: PositiveInt
    """Width of the embeddings."""
    d_ff: PositiveInt
    """Width of the feed-forward layers."""
    d_kv: PositiveInt
    """Channels of an attention head."""
    num_layers: PositiveInt
    """Encoder layers."""
    num_heads: PositiveInt
    """Attention heads per layer."""
    vocab_size: PositiveInt
    """Vocabulary size."""


class RandomTextEncoder(Section):
    """Size of the text encoder built with `weights=random`.

    A random T5-XXL encodes captions no better than a small one, and needs 9 GiB.
    """

    num_layers: PositiveInt
    """Encoder layers."""
    num_heads: PositiveInt
    """Attention heads per layer."""
    d_ff: PositiveInt
    """Width of the feed-forward layers."""


class SchedulerArchitecture(Section):
    """The noise schedule the checkpoint was trained with."""

    num_train_timesteps: PositiveInt
    """Timesteps of the schedule."""
    beta_start: PositiveFloat
    """First beta (scaled linear)."""
    beta_end: PositiveFloat
    """Last beta (scaled linear)."""
    snr_shift_scale: PositiveFloat
    """Shift of the signal-to-noise ratio: 3 for 2b, 1 for the others."""


class Model(Section):
    """A CogVideoX checkpoint: its location, tasks and architecture."""

    name: FilledText
    """Name of the choice, as in `model=NAME`."""
    path: PathText | None
    """Hub repository or local folder with the pretrained pipeline."""
    revision: FilledText | None
    """Branch, tag or commit of the Hub repository. Default: null."""
    weights: Literal["pretrained", "random", "bundled"]
    """pretrained: load `path`. random: build the architecture below from a seed, with no download
    (to try memory, speed and code). bundled: the tiny models' weights, which are part of the package.
    Default: pretrained."""
    random_seed: int = Field(ge=0)
    """Seed of random weights. Default: 0."""
    random_text_encoder: RandomTextEncoder
    """Size of the text encoder with `weights=random`."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"]
    """Dtype of the frozen weights and the computation. auto: the native dtype, but float32 where the
    native dtype is float16 and there is no GPU. Default: auto."""
    native_dtype: Dtype
    """Dtype the checkpoint was trained in."""
    tasks: list[Literal["t2v", "i2v"]]
    """Tasks the checkpoint supports, determined by its input channels."""
    frame_step: PositiveInt
    """Clips must have N times this plus one frames."""
    max_num_frames: PositiveInt
    """Maximum frames of a clip."""
    size_multiple: PositiveInt
    """Height and width in pixels must be multiples of this."""
    native: Native
    """Native shape of a video."""
    sampling: Sampling
    """The authors' sampling settings."""
    training_defaults: TrainingDefaults
    """Settings that suit this model."""
    transformer: TransformerArchitecture
    """The denoiser."""
    vae: VaeArchitecture
    """The autoencoder."""
    text_encoder: TextEncoderArchitecture
    """The T5 encoder."""
    scheduler: SchedulerArchitecture
    """The noise schedule."""
