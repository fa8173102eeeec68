"""Reads LoRA files in the key formats of common trainers and tools.

Every key must match a layer of the model: silently skipping a key would apply only a part of the adapter. Supported,
with any of the usual prefixes:

- diffusers and peft: `transformer.LAYER.lora_A.weight`, `base_model.model.LAYER.lora_A.NAME.weight`, `LAYER.lora_A`;
- ComfyUI and diffusion-pipe: `diffusion_model.LAYER.lora_A.weight`;
- kohya: `lora_unet_LAYER_WITH_UNDERSCORES.lora_down.weight`, with `.alpha`;
- old diffusers: `LAYER.lora.down.weight`, `LAYER_lora.down.weight`, `LAYER.processor.to_q_lora.down.weight`;
- SAT, in which CogVideoX was published: `transformer.layers.N.attention.query_key_value.matrix_A.N`.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapters.strength import Strength, stored_strength
from cogvx_exp.model.widening import adapter_weights

UNDERSTOOD = "LoRA keys of diffusers, peft, ComfyUI, kohya and SAT are supported"
PREFIXES = ("base_model_", "model_", "module_", "diffusion_model_", "transformer_", "unet_", "lora_unet_", "lora_")
"""Possible prefixes of layer names, in keys with underscores."""
PARTS = {"A": "down", "B": "up", "down": "down", "up": "up"}
WEIGHT = re.compile(
    r"(?P<layer>.+?)(?:\.lora_(?P<a>A|B|down|up)|[._]lora\.(?P<b>down|up)|\.lora_linear_layer\.(?P<c>down|up))"
    r"(?:\.(?!weight$|bias$)\w+)?(?P<bias>\.bias)?(?:\.weight)?"
)
"""`.NAME` after lora_A is the adapter's name, as in checkpoints."""
MAGNITUDE = re.compile(r"(?P<layer>.+?)\.lora_magnitude_vector(?:\.\w+)?(?:\.weight)?")
ALPHA = re.compile(r"(?P<layer>.+?)\.(?:lora_)?alpha")
SAT = re.compile(r".*\blayers\.(\d+)\.attention\.(query_key_value|dense)\.matrix_([AB])\.(\d)")
OTHERS = {"hada_": "LoHa", "lokr_": "LoKr", "dora_scale": "kohya's DoRA", ".diff": "differences of whole weights"}
"""Markers of other adapters' keys."""


@dataclass(frozen=True)
class LoraLayer:
    """The LoRA update of a layer: alpha / rank * up @ down."""

    down: torch.Tensor
    """lora_A: (rank, inputs), for a convolution (rank, inputs, height, width)."""
    up: torch.Tensor
    """lora_B: (outputs, rank), for a convolution (outputs, rank, 1, 1)."""
    alpha: float
    bias: torch.Tensor | None = None
    """(outputs,)."""
    magnitude: torch.Tensor | None = None
    """DoRA: (outputs,)."""

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return len(self.down)

    @property
    def scale(self) -> float:
        """Factor of the update."""
        return self.alpha / self.rank

    @property
    def changes(self) -> bool:
        """Whether the update is nonzero."""
        low_rank = bool(self.down.any()) and bool(self.up.any()) and self.alpha != 0
        return low_rank or (self.bias is not None and bool(self.bias.any()))


@dataclass(frozen=True)
class Lora:
    """A LoRA whose layers all exist in the model."""

    layers: dict[str, LoraLayer]
    """By the model's layer names."""
    strength: Strength

    def describe(self) -> str:
        """Rank and alpha, and the source of alpha."""
        ranks = sorted({layer.rank for layer in self.layers.values()})
        alphas = sorted({layer.alpha for layer in self.layers.values()})
        return f"rank {_span(ranks)}, alpha {_span(alphas)} {self.strength.origin}"


def read_lora(file: Path, sizes: Mapping[str, tuple[int, int]]) -> Lora:
    """Reads a LoRA file.

    Args:
        file: a safetensors file; alpha may be in its metadata or in files next to it.
        sizes: input and output sizes of the model's layers that can have an adapter, by name.

    Raises:
        UserError: keys match no layer or layers of another size, weights are not finite, or the information about rank
            and alpha is inconsistent.
    """
    tensors = adapter_weights(file)
    strength = stored_strength(file, tensors)
    parts, unknown = _sort_keys(tensors, _by_flat_name(sizes))
    halves = [name for name, layer in parts.items() if not {"down", "up"} <= layer.keys()]
    _refuse_other_sizes(file, parts, sizes)
    if unknown or halves or not parts:
        raise UserError(_why_not(file, tensors, unknown, halves, len(parts)))
    bad = [name for name, layer in parts.items() if not all(torch.isfinite(value).all() for value in layer.values())]
    if bad:
        raise UserError(f"{file}: {_some(bad)} has non-finite values; the adapter is damaged")
    return Lora({name: _layer(name, layer, strength, file) for name, layer in sorted(parts.items())}, strength)


def _sort_keys(
    tensors: Mapping[str, torch.Tensor], layers: Mapping[str, str]
) -> tuple[dict[str, dict[str, torch.Tensor]], list[str]]:
    """The tensors by layer and part, and the keys that match no layer."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for key, tensor in tensors.items():
        path, part = _part_of(key)
        layer = _find_layer(path, layers) if path else None
        # Two keys for the same part: one of them would be dropped silently.
        if layer is None or part in parts.get(layer, {}):
            unknown.append(key)
        else:
            # In float32, because alpha may be multiplied in, and 16-bit values would be rounded twice.
            parts.setdefault(layer, {})[part] = tensor.float()
    return parts, unknown


def _part_of(key: str) -> tuple[str | None, str]:
    """The layer name in a key, and which part of the layer's adapter the key is."""
    # First, since its names are those of another implementation of the model: one matrix for query, key and value.
    if sat := SAT.fullmatch(key):
        block, kind, half, number = sat.groups()
        name = f"to_{'qkv'[int(number)]}" if kind == "query_key_value" else "to_out.0"
        return f"transformer_blocks.{block}.attn1.{name}", PARTS[half]
    if match := ALPHA.fullmatch(key):
        return match["layer"], "alpha"
    if match := MAGNITUDE.fullmatch(key):
        return match["layer"], "magnitude"
    if match := WEIGHT.fullmatch(key):
        part = PARTS[match["a"] or match["b"] or match["c"]]
        return (None, "") if match["bias"] and part == "down" else (match["layer"], "bias" if match["bias"] else part)
    return None, ""


def _by_flat_name(names: Iterable[str]) -> dict[str, str]:
    """The layers by their names with underscores, as in kohya's keys."""
    # kohya replaced dots by underscores, which cannot be undone: some layer names contain both.
    flat = {name.replace(".", "_"): name for name in names}
    return flat | {name.removesuffix("_0"): flat[name] for name in flat if name.endswith("to_out_0")}


def _find_layer(path: str, layers: Mapping[str, str]) -> str | None:
    """The model's layer for a name in a file, ignoring prefixes."""
    candidates = [path.replace(".", "_").replace("_processor_to_", "_to_")]
    for candidate in candidates:  # the list grows during the loop
        if candidate in layers:
            return layers[candidate]
        # Prefixes stack (base_model.model.transformer). The name is compared before one is removed: transformer_blocks
        # begins like a prefix itself.
        candidates += [candidate.removeprefix(prefix) for prefix in PREFIXES if candidate.startswith(prefix)]
    return None


def _layer(name: str, parts: dict[str, torch.Tensor], strength: Strength, file: Path) -> LoraLayer:
    down, up, magnitude = parts["down"], parts["up"], parts.get("magnitude")
    stored_alpha = parts.get("alpha")
    # From the tensor: a rank in the metadata may be that of other layers.
    rank = len(down)
    alpha = float(stored_alpha) if stored_alpha is not None else strength.alpha(name, rank, file)
    flat = None if magnitude is None else magnitude.flatten()
    return LoraLayer(down, up, alpha, parts.get("bias"), flat)


def _refuse_other_sizes(
    file: Path, parts: dict[str, dict[str, torch.Tensor]], sizes: Mapping[str, tuple[int, int]]
) -> None:
    for name, of_layer in parts.items():
        down, up = of_layer.get("down"), of_layer.get("up")
        inputs = sizes[name][0] if down is None or down.ndim < 2 else down.shape[1]
        outputs = sizes[name][1] if up is None or up.ndim < 2 else len(up)
        if (inputs, outputs) != sizes[name]:
            ours = " to ".join(map(str, sizes[name]))
            raise UserError(
                f"{file} does not fit this model: {name} maps {inputs} to {outputs} channels in the file, but "
                f"{ours} in the model; if the adapter was trained on another model, choose it with model="
            )
        if down is not None and up is not None and (down.ndim < 2 or up.ndim < 2 or up.shape[1] != len(down)):
            raise UserError(f"{file}: {name} has lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}")


def _why_not(file: Path, keys: Iterable[str], unknown: list[str], halves: list[str], layers: int) -> str:
    """The reason for refusing a file."""
    other = [name for part, name in OTHERS.items() if any(part in key for key in unknown)]
    if other:
        count = sum(any(part in key for part in OTHERS) for key in unknown)
        way = "LoHa and LoKr need peft's files (adapter_config.json next to adapter_model.safetensors)"
        return f"{file}: {count} keys are of {' and '.join(other)}, such as {unknown[0]}, not of a LoRA; {way}"
    if not layers and not any("lora" in key or "matrix_A" in key for key in keys):
        return f"{file} has no LoRA keys, only {_some(unknown)}; {UNDERSTOOD}. For a full transformer, give its folder"
    if unknown:
        return (
            f"{file} does not fit this model: {len(unknown)} of its keys match none of its layers ({_some(unknown)}); "
            f"{UNDERSTOOD}. If it was trained on another model, choose it with model="
        )
    return f"{file}: {_some(halves)} has only one of lora_A and lora_B; the file is incomplete"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _span(values: list[int] | list[float]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def most_common(values: Iterable[float]) -> float:
    """The most frequent value."""
    return Counter(values).most_common(1)[0][0]
