"""The result of a run, in the form that diffusers or peft load."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import Method
from cogvx_exp.errors import UserError
from cogvx_exp.files import mode_by_umask
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.model.load import file_metadata
from cogvx_exp.tracking.run_folder import ABOUT, LORA_FILE, PEFT_FILE, TRANSFORMER_FOLDER


def export(
    transformer: CogVideoXTransformer3DModel, method: Method, folder: Path, dtype: torch.dtype, about: dict[str, Any]
) -> Path:
    """Writes what was trained.

    LoRA: one file for `load_lora_weights`. DoRA, LoHa, LoKr: a folder for `PeftModel.from_pretrained`,
    since diffusers' loader drops or refuses their weights. Full fine-tuning: a transformer folder.

    Args:
        transformer: the trained model; after full fine-tuning it is left in `dtype`.
        method: how it was trained.
        folder: where to write.
        dtype: type of a whole transformer.
        about: what else has to be known to use the result; stored beside or in it.

    Raises:
        UserError: a weight is not finite.
    """
    for name, parameter in trainable_parameters(transformer).items():
        if not torch.isfinite(parameter).all():
            raise UserError(f"{name} is not finite after training, so nothing was exported; lower optim.lr")
    folder.mkdir(parents=True, exist_ok=True)
    if method.kind == "full":
        return _export_transformer(transformer.to(dtype), folder)
    write = _export_lora if method.adapter == "lora" else _export_peft
    path = write(transformer, folder, about)
    mode_by_umask(path)
    return path


def export_merged(transformer: CogVideoXTransformer3DModel, folder: Path, dtype: torch.dtype) -> Path:
    """Merges the adapter into the base for good and writes the whole transformer.

    Raises:
        UserError: merging gives weights that are not finite.
    """
    try:
        transformer.fuse_lora(safe_fusing=True)
    except ValueError as error:
        raise UserError(f"export.merge=true: {error}") from None
    transformer.unload_lora()
    return _export_transformer(transformer.to(dtype), folder)


def _export_transformer(transformer: CogVideoXTransformer3DModel, folder: Path) -> Path:
    transformer.save_pretrained(folder / TRANSFORMER_FOLDER)
    mode_by_umask(folder / TRANSFORMER_FOLDER)
    return folder / TRANSFORMER_FOLDER


def _export_lora(transformer: CogVideoXTransformer3DModel, folder: Path, about: dict[str, Any]) -> Path:
    (config,) = transformer.peft_config.values()
    # Without its configuration in the file, a loader takes alpha = rank.
    metadata = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    CogVideoXPipeline.save_lora_weights(
        folder, transformer_lora_layers=_adapter_weights(transformer), transformer_lora_adapter_metadata=metadata
    )
    file = folder / LORA_FILE
    with_about = {**file_metadata(file), ABOUT: json.dumps(about)}
    save_file(load_file(file), file, metadata=with_about)
    return file


def _export_peft(transformer: CogVideoXTransformer3DModel, folder: Path, about: dict[str, Any]) -> Path:
    (config,) = transformer.peft_config.values()
    config.inference_mode = True
    config.save_pretrained(folder)
    config.inference_mode = False
    weights = {f"base_model.model.{name}": weight for name, weight in _adapter_weights(transformer).items()}
    save_file(weights, folder / PEFT_FILE, metadata={"format": "pt", ABOUT: json.dumps(about)})
    return folder / PEFT_FILE


def _adapter_weights(transformer: CogVideoXTransformer3DModel) -> dict[str, torch.Tensor]:
    weights = get_peft_model_state_dict(transformer)
    assert weights, "an adapter has weights"
    return {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
