"""What the measurements were made on."""

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("torch", "diffusers", "transformers", "accelerate", "peft", "hydra", "omegaconf", "pydantic", "pebble")
NEEDED += ("psutil", "yaml", "rich", "jinja2", "matplotlib", "safetensors", "sentencepiece", "huggingface_hub")
"""Modules without which nothing runs."""
USED = {
    "pytest": "the tests",
    "bitsandbytes": "quant=nf4, optim=adamw8bit and paged_*",
    "torchao": "quant=int8 | fp8, optim=ao_* and cpu_offload*",
    "pytorch_optimizer": "optim=came, muon, prodigy, schedule_free",
    "deepspeed": "distributed=zero*",
    "imageio_ffmpeg": "the tests, which draw and write videos",
    "av": "the tests, which read videos",
}
"""Modules that some of it needs."""


def missing(modules: Any) -> list[str]:
    """Those that cannot be imported."""
    return [name for name in modules if find_spec(name) is None]


def revision() -> str | None:
    """The commit of this checkout, marked if it has changes; None if it is no checkout."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude", "*"]
    return _output(command) if (ROOT / ".git").exists() else None


def gpu_memory_used() -> float:
    """GiB of the first visible GPU that are in use by all programs; 0 where nvidia-smi cannot tell."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0]
    choice = [f"--id={visible}"] if visible else []
    told = _output(["nvidia-smi", *choice, "--query-gpu=memory.used", "--format=csv,noheader,nounits"])
    first = (told or "").partition("\n")[0].strip()
    return float(first) / 1024 if first.replace(".", "").isdecimal() else 0.0


def describe_machine() -> dict[str, Any]:
    """GPU, driver, versions of packages, cores and memory of the host. Initializes CUDA."""
    import psutil
    import torch

    from cogvx_exp.runs.environment import environment

    device = torch.device("cuda")
    known = environment(device)
    gpu = torch.cuda.get_device_properties(device)
    driver = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return {
        **{name: known[name] for name in ("device", "cuda", "python", "platform", "packages")},
        "gpus": torch.cuda.device_count(),
        "gpu_gib": round(gpu.total_memory / (1 << 30), 1),
        "capability": f"{gpu.major}.{gpu.minor}",
        "driver": (driver or "unknown").partition("\n")[0],
        "cores": os.cpu_count(),
        "host_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
    }


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
