"""The run folder: paths, and the files that describe the run. Does not need torch."""

import json
import platform
import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from cogvx_exp.config.renames import renamed_config, renamed_override
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.disk import FULL
from cogvx_exp.core.files import read_json, write_text

LORA_FILE = "pytorch_lora_weights.safetensors"
"""File name of an exported LoRA, as diffusers expects it."""
PEFT_FILE = "adapter_model.safetensors"
"""File name of other exported adapters, as peft expects it."""
PATCH_FILE = "patch_embed.safetensors"
"""File name of a patch embedding trained with an adapter, next to it."""
CHECKPOINT_FILE = "trainable.safetensors"
"""File name of the trained weights in a checkpoint."""
MANIFEST = "manifest.json"
"""Name of the file that describes a checkpoint."""
TRANSFORMER_FOLDER = "transformer"
"""Folder name of an exported transformer, as in a pipeline folder."""
PROGRAM = ("python", "-m", "cogvx_exp.train")
"""Start of a run's command line."""
IGNORED_KEYS = ("run_dir", "cache_dir", "resume", "name", "hub", "model.training_defaults", "sweep", "hardware")
"""Prefixes of settings that do not affect a run's results."""
ROOM_FOR_STATUS = 4000
"""Size of status.json during a run, so the final status fits into the same bytes on a full disk."""
ABOUT = "cogvx_exp"
"""Metadata key of exported files under which this project stores additional information."""


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per step."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """Status of the run: running, finished, stopped (to be resumed) or failed."""
        return self.path / "status.json"

    @property
    def logs(self) -> Path:
        """Logs of the processes of a distributed run."""
        return self.path / "logs"

    @property
    def issues(self) -> Path:
        """The unusable clips."""
        return self.path / "faults.csv"

    @property
    def held_out(self) -> Path:
        """One JSON object per measurement of the held-out loss."""
        return self.path / "held_out.jsonl"

    @property
    def scores(self) -> Path:
        """One JSON object per validation, with the mean of each score over its videos."""
        return self.path / "scores.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The checkpoints."""
        return self.path / "checkpoints"

    @property
    def profile(self) -> Path:
        """What the recorded steps are made of, with profile=true."""
        return self.path / "profile"

    @property
    def export(self) -> Path:
        """The export that diffusers loads."""
        return self.path / "export"

    @property
    def conditions(self) -> Path:
        """The condition videos of the validation, named like the sampled ones (task=control)."""
        return self.path / "conditions"

    def checkpoint(self, step: int) -> Path:
        """Checkpoint folder of a step."""
        return self.checkpoints / f"step-{step:06d}"

    def validation(self, step: int) -> Path:
        """Folder of a step's validation videos."""
        return self.path / "validation" / f"step-{step:06d}"

    @property
    def command(self) -> Path:
        """The command line that repeats the run."""
        return self.path / "command.txt"

    def start(self, job: TrainJob, arguments: list[str]) -> None:
        """Writes the settings and command of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        write_text(self.command, shlex.join([*PROGRAM, *arguments]) + "\n")

    def overrides(self) -> list[str]:
        """The settings on the run's command line; empty if the run has not started."""
        # The command line and not the configuration: only there is it visible what a person chose.
        words = shlex.split(self.command.read_text(encoding="utf-8")) if self.command.exists() else []
        settings = [word for word in words[len(PROGRAM) :] if "=" in word and not word.startswith(("-", "hydra."))]
        return [renamed_override(text) for text in settings]


def write_status(folder: RunFolder, status: str, **about: Any) -> None:
    """Writes a run's status. If the disk has become full, overwrites the bytes of the old one.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now().isoformat(timespec="milliseconds")
    started = now if status == "running" else _read(folder.status).get("started")
    values = {"status": status, "time": now, "started": started, **about}
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n"
    if status == "running":
        text += " " * (ROOM_FOR_STATUS - len(text.encode())) + "\n"  # reserved for the final status
    try:
        write_text(folder.status, text)
    except OSError as error:
        # A full disk has no room for the temporary file of an atomic write, but the old file's bytes are ours.
        if error.errno not in FULL:
            raise
        _overwrite_status(folder.status, values)


def _overwrite_status(path: Path, values: dict[str, Any]) -> None:
    """Writes into the existing bytes of a file; a long message is truncated."""
    with path.open("r+b") as file:
        room = path.stat().st_size
        text = json.dumps(values, default=str).encode()
        while len(text) > room and values.get("message"):
            values = {**values, "message": str(values["message"])[:-100]}
            text = json.dumps(values, default=str).encode()
        # Padded with spaces, which JSON ignores, so that nothing of the old status is left behind.
        if len(text) <= room:
            file.write(text.ljust(room))


def read_status(run_dir: Path) -> dict[str, Any]:
    """A run's status; empty if none was written. It is `lost` if its process exited without writing one."""
    status = _read(RunFolder(run_dir).status)
    if status.get("status") == "running" and _is_gone(status):
        status |= {"status": "lost", "message": "its process exited without an error message"}
    return status


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file))
    except (OSError, ValueError):
        return {}


def seconds_of(status: dict[str, Any]) -> float | None:
    """Duration of a run so far or until its end; None if its start is unknown."""
    if not status.get("started"):
        return None
    end = datetime.now() if status["status"] == "running" else datetime.fromisoformat(status["time"])
    return max((end - datetime.fromisoformat(status["started"])).total_seconds(), 0.0)


def _is_gone(status: dict[str, Any]) -> bool:
    """Whether the process that wrote a status on this machine has exited."""
    # Only on the same machine; elsewhere, the same number is another process.
    return status.get("host") == platform.node() and "pid" in status and not psutil.pid_exists(status["pid"])


def read_job(run_dir: Path) -> TrainJob:
    """The configuration a run was started with."""
    return TrainJob.model_validate(read_config(run_dir))


def read_config(run_dir: Path) -> Any:
    """The values of a run's configuration, whatever version of this project wrote them."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is
    return renamed_config(yaml.load(RunFolder(run_dir).config.read_text(encoding="utf-8"), loader))


def with_new_names(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest whose configuration may be of an earlier version."""
    return {**manifest, "config": renamed_config(manifest["config"])} if "config" in manifest else manifest


def checkpoint_of(file: Path) -> dict[str, Any]:
    """The manifest of the checkpoint that a weights file belongs to; empty if there is none."""
    has_one = file.name == CHECKPOINT_FILE and (file.parent / MANIFEST).is_file()
    return with_new_names(dict(read_json(file.parent / MANIFEST))) if has_one else {}


def is_whole(file: Path) -> bool:
    """Whether a path contains full transformer weights, not an adapter: a folder, or a checkpoint of method=sft."""
    return file.is_dir() or checkpoint_of(file).get("config", {}).get("method", {}).get("kind") == "full"


def settings_by_name(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested configuration by their full names."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        settings |= settings_by_name(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return settings


def step_of(path: Path) -> int | None:
    """The step in the name of a checkpoint or video folder; None if there is none."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else None
