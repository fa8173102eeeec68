"""Finds the alpha of a LoRA, wherever a file stores it. The update is scaled by alpha / rank."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key
from safetensors import safe_open

from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapters.weights_file import read_settings
from cogvx_exp.runs.run_folder import PEFT_FILE, checkpoint_of

DIFFUSERS_KEY = "lora_adapter_metadata"
"""Metadata key of a safetensors file under which diffusers stores the adapter's configuration."""
SAT_ALPHA = 1.0
"""SAT's default (sat/model/finetune/lora2.py), which its files do not store."""


@dataclass(frozen=True)
class Strength:
    """Alphas and ranks of a LoRA's layers that have no alpha of their own in the file."""

    origin: str
    """Where they were found, for messages."""
    config: dict[str, Any] = field(default_factory=dict)
    """In the format of peft's LoraConfig; empty: alpha equals the rank."""

    def alpha(self, layer: str, rank: int, file: Path) -> float:
        """Alpha of a layer, so that its update is scaled by alpha / rank.

        Raises:
            UserError: the layer's rank contradicts the configuration.
        """
        expected = self._of(layer, "rank_pattern", "r", rank)
        if expected != rank:
            raise UserError(f"{file}: {layer} has rank {rank}, but {expected:g} {self.origin}; one of them is wrong")
        alpha = self._of(layer, "alpha_pattern", "lora_alpha", rank)
        # rsLoRA scales by alpha / sqrt(rank); as a plain LoRA that is this alpha over the rank.
        return alpha * math.sqrt(rank) if self.config.get("use_rslora") else alpha

    def _of(self, layer: str, pattern: str, name: str, default: float) -> float:
        patterns = self.config.get(pattern) or {}
        value = patterns.get(get_pattern_key(patterns.keys(), layer), self.config.get(name))
        return default if value is None else float(value)


def stored_strength(file: Path, keys: Iterable[str]) -> Strength:
    """Alphas and ranks stored in a LoRA file or in a file next to it.

    Raises:
        UserError: the stored values cannot be read.
    """
    keys = list(keys)
    metadata = file_metadata(file)
    # Per-layer values in the file itself come first: kohya's tools store them beside a global one.
    if any(key.endswith("alpha") for key in keys):
        return Strength("from its .alpha keys")
    if DIFFUSERS_KEY in metadata:
        try:
            config = json.loads(metadata[DIFFUSERS_KEY])
        except ValueError:
            raise UserError(f"{file}: its metadata ({DIFFUSERS_KEY}) is not valid JSON") from None
        return Strength("from its metadata", {key.removeprefix("transformer."): config[key] for key in config})
    if peft := peft_config(file):
        return Strength("from adapter_config.json", peft)
    if metadata.get("ss_network_alpha", "None") != "None":  # kohya's
        return _from_kohya(metadata, file)
    if method := checkpoint_of(file).get("config", {}).get("method"):
        config = {"r": method["rank"], "lora_alpha": method["alpha"], "init_lora_weights": method["init"]}
        return Strength("from its checkpoint", config)
    if any("matrix_A" in key for key in keys):
        return Strength("as SAT's default", {"lora_alpha": SAT_ALPHA})
    return Strength("as its rank, since none is stored")


def _from_kohya(metadata: dict[str, str], file: Path) -> Strength:
    try:
        return Strength("from its metadata", {"lora_alpha": float(metadata["ss_network_alpha"])})
    except ValueError:
        raise UserError(f"{file}: its metadata has ss_network_alpha={metadata['ss_network_alpha']}") from None


def peft_config(file: Path) -> dict[str, Any]:
    """The peft configuration next to an adapter; empty if there is none."""
    config_file = file.parent / "adapter_config.json"
    # In a folder of several adapters, a stray adapter_config.json may belong to any of them.
    its_own = file.name == PEFT_FILE or len(list(file.parent.glob("*.safetensors"))) == 1
    return read_settings(config_file, str(file)) if its_own and config_file.is_file() else {}


def file_metadata(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file."""
    with safe_open(file, framework="np") as opened:
        return dict(opened.metadata() or {})
