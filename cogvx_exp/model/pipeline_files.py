"""Checks the folder of a pretrained pipeline before anything long begins. Does not need torch.

Only headers and the first bytes of files are read, so a pipeline of 20 GiB is checked immediately. The architecture
check covers what the weights and this program depend on. Native sizes and interpolation scales are not compared: they
are read from the loaded configuration, and early uploads of CogVideoX 1.5 contain 300 x 300.
"""

from pathlib import Path
from typing import Any

from cogvx_exp.config.choices import architectures
from cogvx_exp.config.schema import Model
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapters.weights_file import check_file, check_weights, read_settings

DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"
WEIGHTS = {"transformer": DIFFUSERS_WEIGHTS, "vae": DIFFUSERS_WEIGHTS, "text_encoder": TRANSFORMERS_WEIGHTS}
"""Parts with weights, and the name of their file if there is only one."""
SCHEDULER_FILE = "scheduler_config.json"
TOKENIZER_FILES = ("spiece.model", "tokenizer.json")
"""One of them is sufficient."""
AGAIN = "copy or download the whole pipeline again"

TRANSFORMER_KEYS = (
    *("num_layers", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels", "text_embed_dim"),
    *("time_embed_dim", "ofs_embed_dim", "patch_size", "patch_size_t", "patch_bias", "temporal_compression_ratio"),
    "use_rotary_positional_embeddings",
)
"""Keys that distinguish architectures. Learned positions may be missing: they are dropped off the native shape."""
VAE_KEYS = ("block_out_channels", "latent_channels", "temporal_compression_ratio")
OLD_CONFIG = {"patch_size_t": None, "ofs_embed_dim": None, "patch_bias": True}
"""Values implied by configurations written before diffusers had these keys."""


def check_pipeline(folder: Path, model: Model, setting: str) -> None:
    """Checks that a pipeline's folder is complete and has the chosen model's architecture.

    Args:
        folder: the pipeline.
        model: the chosen model.
        setting: the setting that gives the folder, for messages.

    Raises:
        UserError: a file is missing, truncated or a Git LFS pointer, or the architecture is another model's.
    """
    read_settings(folder / "model_index.json", setting)
    for part in (*WEIGHTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise UserError(f"{setting}: {folder} has no folder {part}; {AGAIN}")
    for part, name in WEIGHTS.items():
        check_part(folder / part, setting, name)
    _check_tokenizer(folder / "tokenizer", setting)
    schedule = read_settings(folder / "scheduler" / SCHEDULER_FILE, setting)
    # An epsilon model would load and train, and be wrong in every step.
    predicts = schedule.get("prediction_type", "v_prediction")
    if predicts != "v_prediction":
        raise UserError(f"{setting}: the scheduler's prediction_type is {predicts}; CogVideoX predicts v_prediction")
    check_architecture(folder, model, setting)


def check_part(folder: Path, setting: str, name: str = DIFFUSERS_WEIGHTS) -> None:
    """Checks the configuration and weights of one model's folder.

    Raises:
        UserError: a file is missing, truncated or a Git LFS pointer.
    """
    read_settings(folder / "config.json", setting)
    index = folder / f"{name}.index.json"
    if not index.is_file():
        # A broken link of the Hub's cache is reported as such by `check_weights`.
        if not (folder / name).exists() and not (folder / name).is_symlink():
            raise UserError(f"{setting}: {folder} has no {name}{_what_is_there(folder)}; {AGAIN}")
        check_weights(folder / name, setting)
        return
    weight_map = read_settings(index, setting).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{setting}: {index} has no weight_map; {AGAIN}")
    # All shards: a download that broke off often lacks the last one only.
    for shard in sorted(set(weight_map.values())):
        check_weights(folder / str(shard), setting)


def check_architecture(folder: Path, model: Model, setting: str) -> None:
    """Compares a pipeline's configurations with those of the chosen model.

    Raises:
        UserError: they differ in a relevant key; names it, and the matching model if there is one.
    """
    transformer = read_settings(folder / "transformer" / "config.json", setting)
    differs = differences(transformer, model.transformer.model_dump(), TRANSFORMER_KEYS)
    if differs:
        raise UserError(_is_another(transformer, differs, model, setting))
    vae = read_settings(folder / "vae" / "config.json", setting)
    differs = differences(vae, model.vae.model_dump(), VAE_KEYS)
    if differs:
        said = "; ".join(differs)
        raise UserError(f"{setting}: the VAE in {folder / 'vae'} is not that of model={model.name}: {said}")
    text = read_settings(folder / "text_encoder" / "config.json", setting)
    width = text.get("d_model", model.transformer.text_embed_dim)
    if width != model.transformer.text_embed_dim:
        raise UserError(
            f"{setting}: the text encoder in {folder / 'text_encoder'} has width {width} (d_model), but "
            f"model={model.name} needs {model.transformer.text_embed_dim} (text_embed_dim)"
        )


def check_same_architecture(folder: Path, base: dict[str, Any]) -> None:
    """Compares a fully trained transformer with its base.

    Raises:
        UserError: their architectures differ.
    """
    found = read_settings(folder / "config.json", str(folder))
    if found.get("in_channels") == base["in_channels"] + base["out_channels"]:  # trained with a condition
        base = {**base, "in_channels": found["in_channels"]}
    differs = differences(found, base, TRANSFORMER_KEYS)
    if differs:
        raise UserError(
            f"{folder} is a transformer of another model: {', '.join(differs)}; choose that model with model="
        )


def differences(found: dict[str, Any], wanted: dict[str, Any], keys: tuple[str, ...]) -> list[str]:
    """Differences between two configurations, in words. Keys missing in `found` are ignored."""
    both = {**{key: OLD_CONFIG[key] for key in OLD_CONFIG if key in wanted}, **found}
    return [
        f"{key} is {both[key]}, not {wanted[key]}"
        for key in keys
        if key in both and _plain(both[key]) != _plain(wanted[key])
    ]


def fitting_models(transformer: dict[str, Any]) -> list[str]:
    """The models whose transformers have this configuration, apart from irrelevant keys."""
    return [name for name, wanted in architectures().items() if not differences(transformer, wanted, TRANSFORMER_KEYS)]


def _is_another(transformer: dict[str, Any], differs: list[str], model: Model, setting: str) -> str:
    fits = [name for name in fitting_models(transformer) if name != model.name]
    way = f"use model={' or model='.join(fits)}" if fits else "no model= has this architecture"
    found, needed = transformer.get("in_channels"), model.transformer.in_channels
    channels = ""
    if found != needed:
        does = "i2v" if "i2v" in model.tasks else "t2v"
        channels = f" (task={does} needs a transformer with {needed} input channels)"
    return f"{setting} is not a {model.name}: in its transformer, {', '.join(differs)}{channels}; {way}"


def _check_tokenizer(folder: Path, setting: str) -> None:
    there = [folder / name for name in TOKENIZER_FILES if (folder / name).exists()]
    if not there:
        raise UserError(f"{setting}: {folder} has neither {' nor '.join(TOKENIZER_FILES)}; {AGAIN}")
    for path in [*there, *folder.glob("*.json")]:
        if path.suffix == ".json":
            read_settings(path, setting)
        else:
            check_file(path, setting)


def _what_is_there(folder: Path) -> str:
    """Names of weight files in unsupported formats, for messages."""
    others = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".safetensors", ".pt", ".ckpt"))
    return f", only {', '.join(others[:3])}" if others else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
