"""The parts of a step, and the modules and ranges that belong to them."""

from diffusers import CogVideoXTransformer3DModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

ATTENTION = "attention"
FEED_FORWARD = "feed-forward"
NORMS = "norms and modulation"
COMPILED = "compiled blocks"
ADAPTER = "adapter"
EMBEDDINGS = "embeddings"
LOSS = "inputs and loss"
VAE_ENCODER = "VAE encoder"
CLIP = "clip"
OPTIMIZER = "optimizer"
DATA_WAIT = "data wait"
EXCHANGE = "exchange"
LOGGING = "logging"
BETWEEN_STEPS = "between steps"
OTHER = "other"
IDLE = "idle"

PARTS = (
    ATTENTION,
    FEED_FORWARD,
    NORMS,
    COMPILED,
    ADAPTER,
    EMBEDDINGS,
    LOSS,
    VAE_ENCODER,
    CLIP,
    OPTIMIZER,
    DATA_WAIT,
    EXCHANGE,
    LOGGING,
    BETWEEN_STEPS,
    OTHER,
    IDLE,
)
"""All parts, in the order of the table."""

RANGES = {
    "data wait": DATA_WAIT,
    "forward": LOSS,
    "backward": OTHER,
    "clip": CLIP,
    "losses to the host": LOGGING,
    "exchange": EXCHANGE,
    "optimizer": OPTIMIZER,
    "logging": LOGGING,
    "between steps": BETWEEN_STEPS,
    "vae.encoder": VAE_ENCODER,
}
"""The part of each range of the training loop; for `forward` and `backward`, what runs outside the model's modules."""

HOST_PARTS = (DATA_WAIT, EXCHANGE, LOGGING, BETWEEN_STEPS)
"""Parts in which the device waits for the host: time in which nothing runs counts for them and not as idle."""

OF_A_BLOCK = {"attn1": ATTENTION, "ff": FEED_FORWARD, "norm1": NORMS, "norm2": NORMS}
"""By name in a transformer block; the block itself only applies gates and residuals."""
OF_THE_MODEL = {
    "patch_embed": EMBEDDINGS,
    "time_embedding": EMBEDDINGS,
    "ofs_embedding": EMBEDDINGS,
    "norm_final": NORMS,
    "norm_out": NORMS,
    "proj_out": EMBEDDINGS,
}
"""By name in the transformer; the transformer itself only patchifies and unpatchifies."""


def module_parts(transformer: CogVideoXTransformer3DModel) -> dict[nn.Module, tuple[str, str]]:
    """The name and part of each module with its own range; other modules belong to the enclosing one."""
    parts: dict[nn.Module, tuple[str, str]] = {transformer: ("transformer", EMBEDDINGS)}
    modules = dict(transformer.named_modules())
    for number, block in enumerate(transformer.transformer_blocks):
        name = f"transformer_blocks.{number}"
        if is_compiled(block):  # fused kernels belong to several modules at once
            parts[block] = (name, COMPILED)
            continue
        parts[block] = (name, NORMS)
        parts |= {getattr(block, child): (f"{name}.{child}", part) for child, part in OF_A_BLOCK.items()}
    parts |= {modules[name]: (name, part) for name, part in OF_THE_MODEL.items() if name in modules}
    for name, module in modules.items():
        if isinstance(module, BaseTunerLayer) and not is_compiled(modules[".".join(name.split(".")[:2])]):
            # peft wraps the layer, so the product with the frozen weight is inside the adapter's module.
            base = module.get_base_layer()
            parts[base] = (f"{name}.base_layer", _enclosing(name, modules, parts))
            parts[module] = (name, ADAPTER)
    return parts


def is_compiled(module: nn.Module) -> bool:
    """Whether a module's forward pass is compiled (`compile=blocks`)."""
    return hasattr(module.forward, "_torchdynamo_orig_callable")


def _enclosing(name: str, modules: dict[str, nn.Module], parts: dict[nn.Module, tuple[str, str]]) -> str:
    """The part that a module would have without its adapter: its own, or that of the enclosing module."""
    while modules[name] not in parts and name:
        name = name.rpartition(".")[0]
    return parts[modules[name]][1]
