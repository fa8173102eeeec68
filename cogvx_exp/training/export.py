"""The result of a run, as diffusers loads it."""

from pathlib import Path

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft.utils import get_peft_model_state_dict

from cogvx_exp.errors import UserError
from cogvx_exp.model.adapt import adapter_metadata
from cogvx_exp.tracking.run_folder import LORA_FILE


def export_adapter(transformer: CogVideoXTransformer3DModel, folder: Path) -> Path:
    """Writes the LoRA with its metadata, so that `load_lora_weights` applies it at the trained strength.

    Raises:
        UserError: a weight is not finite.
    """
    weights = {name: weight.detach().cpu() for name, weight in get_peft_model_state_dict(transformer).items()}
    assert weights, "an adapter has weights"
    if not all(torch.isfinite(weight).all() for weight in weights.values()):
        raise UserError("the trained weights are not finite, so nothing was exported; lower optim.lr")
    CogVideoXPipeline.save_lora_weights(
        folder, transformer_lora_layers=weights, transformer_lora_adapter_metadata=adapter_metadata(transformer)
    )
    return folder / LORA_FILE
