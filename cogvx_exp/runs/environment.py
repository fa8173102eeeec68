"""The environment of a run: versions, device, commit. Of the variables only the visible GPUs, so no secrets."""

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "cogvx-exp",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "hydra-core",
    "omegaconf",
    "bitsandbytes",
    "torchao",
    "deepspeed",
    "decord2",
    "decord",
)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions of relevant packages, the device, and the commit of this project in a checkout."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: installed for name in PACKAGES if (installed := _version(name))},
        "device": device_label(device),
        "cuda": torch.version.cuda,
        "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "git_commit": _git("rev-parse", "HEAD"),
        # Untracked files are left out, as outputs and datasets often are inside a checkout.
        "git_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def device_label(device: torch.device) -> str:
    """What a run computes on, in words."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU, {torch.get_num_threads()} threads"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
