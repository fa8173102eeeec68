"""The folder of a run: what is where, and the files that explain it. Does not need torch."""

import json
import platform
import shlex
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import psutil
import yaml

from cogvx_exp.config.renames import renamed_config, renamed_override
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.disk import FULL
from cogvx_exp.core.files import read_json, write_text

LORA_FILE = "pytorch_lora_weights.safetensors"
"""Name of an exported LoRA; the one diffusers looks for."""
PEFT_FILE = "adapter_model.safetensors"
"""Name of another exported adapter; the one peft looks for."""
CHECKPOINT_FILE = "trainable.safetensors"
"""Name of the trained weights in a checkpoint."""
MANIFEST = "manifest.json"
"""Name of the file that describes a checkpoint."""
TRANSFORMER_FOLDER = "transformer"
"""Name of an exported whole transformer, as in a pipeline's folder."""
PROGRAM = ("python", "-m", "cogvx_exp.train")
"""What a run's command line begins with."""
IGNORED_KEYS = ("run_dir", "cache_dir", "resume", "name", "hub", "model.training_defaults", "sweep", "hardware")
"""How settings begin that do not tell what a run does."""
LONGEST_LINE = 1 << 14
"""Bytes of the end of a metrics file in which its last line is looked for."""
ROOM_FOR_STATUS = 4000
"""Bytes of status.json while a run goes on: so its end can be noted on a full disk."""
ABOUT = "cogvx_exp"
"""Key in an exported file's metadata under which this project keeps what else has to be known."""


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
        """One JSON object for each step."""
        return self.path / "metrics.jsonl"

    @property
    def status(self) -> Path:
        """How the run stands: running, finished, stopped (to be resumed) or failed."""
        return self.path / "status.json"

    @property
    def logs(self) -> Path:
        """What the processes of a run with several leave."""
        return self.path / "logs"

    @property
    def faults(self) -> Path:
        """The clips that could not be used."""
        return self.path / "faults.csv"

    @property
    def held_out(self) -> Path:
        """One JSON object for each measurement of the held-out loss."""
        return self.path / "held_out.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The training states."""
        return self.path / "checkpoints"

    @property
    def profile(self) -> Path:
        """What the recorded steps are made of, with profile=true."""
        return self.path / "profile"

    @property
    def export(self) -> Path:
        """The result, as diffusers loads it."""
        return self.path / "export"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.checkpoints / f"step-{step:06d}"

    def validation(self, step: int) -> Path:
        """Folder of the videos of a step."""
        return self.path / "validation" / f"step-{step:06d}"

    @property
    def command(self) -> Path:
        """The command line that repeats the run."""
        return self.path / "command.txt"

    def start(self, job: TrainJob, arguments: list[str]) -> None:
        """Writes what the run was started with."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.config, yaml.safe_dump(job.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        write_text(self.command, shlex.join([*PROGRAM, *arguments]) + "\n")

    def overrides(self) -> list[str]:
        """The settings on the run's command line; none if it was not started yet."""
        words = shlex.split(self.command.read_text(encoding="utf-8")) if self.command.exists() else []
        settings = [word for word in words[len(PROGRAM) :] if "=" in word and not word.startswith(("-", "hydra."))]
        return [renamed_override(text) for text in settings]


def write_status(folder: RunFolder, status: str, **about: Any) -> None:
    """Notes how a run stands. On a disk that is full in the meantime, in the place of what was there.

    Raises:
        OSError: it cannot be written.
    """
    now = datetime.now().isoformat(timespec="milliseconds")
    started = now if status == "running" else _read(folder.status).get("started")
    values = {"status": status, "time": now, "started": started, **about}
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str) + "\n"
    if status == "running":
        text += " " * (ROOM_FOR_STATUS - len(text.encode())) + "\n"  # room for how it ends
    try:
        write_text(folder.status, text)
    except OSError as error:
        if error.errno not in FULL:
            raise
        _overwrite_status(folder.status, values)


def _overwrite_status(path: Path, values: dict[str, Any]) -> None:
    """Writes into the bytes that a file has already; a long message is cut."""
    with path.open("r+b") as file:
        room = path.stat().st_size
        text = json.dumps(values, default=str).encode()
        while len(text) > room and values.get("message"):
            values = {**values, "message": str(values["message"])[:-100]}
            text = json.dumps(values, default=str).encode()
        if len(text) <= room:
            file.write(text.ljust(room))


def read_status(run_dir: Path) -> dict[str, Any]:
    """How a run stands; empty if that was never written. It is `lost` if its process is gone without a word."""
    status = _read(RunFolder(run_dir).status)
    if status.get("status") == "running" and _is_gone(status):
        status |= {"status": "lost", "message": "its process is gone without a word"}
    return status


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(read_json(file))
    except (OSError, ValueError):
        return {}


def seconds_of(status: dict[str, Any]) -> float | None:
    """How long a run took from its start to its end, or takes already; None if its start is not known."""
    if not status.get("started"):
        return None
    end = datetime.now() if status["status"] == "running" else datetime.fromisoformat(status["time"])
    return max((end - datetime.fromisoformat(status["started"])).total_seconds(), 0.0)


def _is_gone(status: dict[str, Any]) -> bool:
    """Whether the process that wrote a status on this machine has ended."""
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
    """The manifest of the checkpoint that a file of weights belongs to; empty if it belongs to none."""
    has_one = file.name == CHECKPOINT_FILE and (file.parent / MANIFEST).is_file()
    return with_new_names(dict(read_json(file.parent / MANIFEST))) if has_one else {}


def is_whole(file: Path) -> bool:
    """Whether a path holds a transformer's own weights and no adapter: its folder, or a checkpoint of method=sft."""
    return file.is_dir() or checkpoint_of(file).get("config", {}).get("method", {}).get("kind") == "full"


def settings_by_name(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested configuration by their full names."""
    settings: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        settings |= settings_by_name(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return settings


class Metrics:
    """Appends metrics to a run's metrics.jsonl.

    A resumed run drops the lines after its checkpoint, whose steps it does again. On a full disk, lines wait in memory
    until there is room.

    Args:
        path: the file.
        after_step: the last step whose line stays.
        tell: is given each line, too.
    """

    def __init__(self, path: Path, after_step: int, tell: Callable[[dict[str, Any]], None] = lambda values: None):
        self._tell = tell
        kept = [line for line in read_metrics(path) if line["step"] <= after_step]
        self.last: dict[str, Any] = kept[-1] if kept else {}
        """The last line that stays."""
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._path, self._waiting, self._told = path, b"", False
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exception: object) -> None:
        self._append()
        self._file.close()

    def write(self, **values: Any) -> None:
        """Adds one line."""
        self._waiting += json.dumps(values).encode() + b"\n"
        self._append()
        self._tell(values)

    def _append(self) -> None:
        try:
            while self._waiting:
                self._waiting = self._waiting[self._file.write(self._waiting) :]
        except OSError as error:
            if error.errno not in FULL:
                raise
            if not self._told:
                console.warn(f"Note: {self._path}: {error.strerror}; its lines wait for room")
            self._told = True


class NoMetrics:
    """Takes the place of `Metrics` in processes that write nothing."""

    last: ClassVar[dict[str, Any]] = {}

    def __enter__(self) -> "NoMetrics":
        return self

    def __exit__(self, *exception: object) -> None: ...

    def write(self, **values: Any) -> None:
        """Drops the values."""


def step_of(path: Path) -> int | None:
    """The step that a folder is named for, of a checkpoint or of videos; None if it is for none."""
    number = path.name.removeprefix("step-")
    return int(number) if number.isdecimal() else None


def last_metrics(path: Path) -> dict[str, Any]:
    """The newest whole line of a metrics file, without reading all of it; empty if there is none."""
    if not path.exists():
        return {}
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - LONGEST_LINE, 0))
        lines = file.read().split(b"\n")[:-1]
    for line in reversed(lines):
        with suppress(json.JSONDecodeError):
            return dict(json.loads(line))
    return {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    metrics = []
    for line in lines:
        try:
            metrics.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return metrics
