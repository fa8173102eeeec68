"""Exports the result of a run in the format of diffusers or peft."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import Method
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import mode_by_umask, read_json, write_json
from cogvx_exp.model.adapt import initial_adapter, trainable_parameters
from cogvx_exp.model.adapters.strength import file_metadata
from cogvx_exp.model.widening import trained_patch
from cogvx_exp.runs.run_folder import ABOUT, LORA_FILE, PATCH_FILE, PEFT_FILE, TRANSFORMER_FOLDER


def export(
    transformer: CogVideoXTransformer3DModel, method: Method, folder: Path, dtype: torch.dtype, about: dict[str, Any]
) -> Path:
    """Writes the trained weights.

    LoRA: one file for `load_lora_weights`. DoRA, LoHa, LoKr: a folder for `PeftModel.from_pretrained`, since diffusers'
    loader drops or refuses their weights. A patch embedding trained with an adapter: a file next to it. Full
    fine-tuning: a transformer folder.

    Args:
        transformer: the trained model; after full fine-tuning it is converted to `dtype`.
        method: the method settings.
        folder: target folder.
        dtype: dtype of a full transformer.
        about: further information needed to use the result, stored with it.

    Raises:
        UserError: a weight is not finite.
    """
    # Checked once more: the last step's loss was finite, but its update may not have been.
    for name, parameter in trainable_parameters(transformer).items():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{name} is not finite after training, so nothing was exported; lower optim.lr")
    folder.mkdir(parents=True, exist_ok=True)
    if method.kind == "full":
        return _export_transformer(transformer.to(dtype), folder)
    write = _export_lora if method.adapter == "lora" else _export_peft
    path = write(transformer, folder, about)
    if patch := trained_patch(transformer):
        save_file(patch, folder / PATCH_FILE)
        mode_by_umask(folder / PATCH_FILE)
    mode_by_umask(path)
    return path


def export_merged(transformer: CogVideoXTransformer3DModel, folder: Path, dtype: torch.dtype) -> Path:
    """Merges the adapter into the base permanently and writes the full transformer.

    Raises:
        UserError: merging gives non-finite weights.
    """
    try:
        # Safe merging adds to a copy and checks it, at the price of one more weight in memory.
        transformer.fuse_lora(safe_fusing=True)
    except ValueError as error:
        raise UserError(f"export.merge=true: {error}") from None
    # Removes peft's wrappers, whose names would end up in the exported keys.
    transformer.unload_lora()
    return _export_transformer(transformer.to(dtype), folder)


def _export_transformer(transformer: CogVideoXTransformer3DModel, folder: Path) -> Path:
    target = folder / TRANSFORMER_FOLDER
    try:
        transformer.save_pretrained(target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)  # after a full disk: do not leave a partial model
        raise
    config = target / "config.json"
    # diffusers stores the folder that the base was loaded from; local paths should not be published.
    write_json(config, {key: value for key, value in read_json(config).items() if key != "_name_or_path"})
    mode_by_umask(target)
    return target


def _export_lora(transformer: CogVideoXTransformer3DModel, folder: Path, about: dict[str, Any]) -> Path:
    """Writes a LoRA whose alpha equals its rank, so loaders that ignore the metadata apply the right scale.

    alpha / rank is multiplied into lora_B; the original alpha and rank are stored with `about`.
    """
    (config,) = transformer.peft_config.values()
    weights = _plain_lora(transformer, config.lora_alpha / config.r)
    rank = len(next(weight for name, weight in weights.items() if name.endswith("lora_A.weight")))
    # init_lora_weights=pissa in the file would make a loader subtract from its base once more.
    plain = {**config.to_dict(), "r": rank, "lora_alpha": rank, "init_lora_weights": True}
    metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}
    CogVideoXPipeline.save_lora_weights(
        folder, transformer_lora_layers=weights, transformer_lora_adapter_metadata=metadata
    )
    # diffusers prefixes the keys with "transformer.", as `load_lora_weights` of its pipelines expects.
    file = folder / LORA_FILE
    about = {**about, "trained_with": {"rank": config.r, "alpha": config.lora_alpha}}
    with_about = {**file_metadata(file), ABOUT: json.dumps(about)}
    # save_lora_weights takes no further metadata, so the file is written again with it.
    save_file(load_file(file), file, metadata=with_about)
    return file


def _plain_lora(transformer: CogVideoXTransformer3DModel, scale: float) -> dict[str, torch.Tensor]:
    """The trained update of the pretrained weights as lora_B @ lora_A, without a factor.

    With method.init=pissa or olora, the base is the pretrained one minus the initial adapter. The update is therefore
    the trained adapter minus the initial one: a LoRA of twice the rank.
    """
    begun = {name.replace(".default.", "."): weight for name, weight in initial_adapter(transformer).items()}
    weights = {}
    for name, weight in _adapter_weights(transformer).items():
        dim, factor = (1, scale) if "lora_B" in name else (0, 1.0)
        # Untouched if the factor is 1: the exported bytes are then those that were trained.
        parts = [weight if factor == 1 else weight.float() * factor]
        if begun:
            parts.append(begun[name] * (-scale if "lora_B" in name else 1))
        # Along the rank: lora_A is (rank, inputs), lora_B (outputs, rank), so the products of both add up.
        weights[name] = torch.cat(parts, dim) if begun else parts[0]
    return weights


def _export_peft(transformer: CogVideoXTransformer3DModel, folder: Path, about: dict[str, Any]) -> Path:
    (config,) = transformer.peft_config.values()
    # peft's convention for published adapters; reset, since the same object still belongs to the model.
    config.inference_mode = True
    config.save_pretrained(folder)
    config.inference_mode = False
    weights = {f"base_model.model.{name}": weight for name, weight in _adapter_weights(transformer).items()}
    save_file(weights, folder / PEFT_FILE, metadata={"format": "pt", ABOUT: json.dumps(about)})
    return folder / PEFT_FILE


def _adapter_weights(transformer: CogVideoXTransformer3DModel) -> dict[str, torch.Tensor]:
    weights = get_peft_model_state_dict(transformer)
    assert weights, "an adapter has weights"
    # safetensors stores contiguous tensors only, and refuses those that share memory.
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
