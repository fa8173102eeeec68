"""Random command lines, and what may become of them: a result, or a refusal that names one of their settings.

Every line is legal in its form: each group has one of its choices and each setting a value of its type. Whether the
choices go together is for the product to say.
"""

import json
import os
import random
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cogvx_exp.config.paths import PACKAGE, conf_dir
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_status

TWINS = {"tiny-2b": "t2v", "tiny-5b": "t2v", "tiny-5b-i2v": "i2v", "tiny-1.5": "t2v", "tiny-1.5-i2v": "i2v"}
"""Random twins of the five checkpoints, and the task of each."""
GROUPS = {
    "method": ("lora", 0.4),
    "optim": ("adamw", 0.3),
    "lr_scheduler": ("constant", 0.3),
    "memory": ("default", 0.5),
    "quant": ("none", 0.7),
    "distributed": ("single", 0.85),
    "validation": ("none", 0.7),
    "tracker": ("none", 0.9),
}
"""Of each group: the choice that goes with most others, and how often it is taken."""
VALUES: dict[str, tuple[str, ...]] = {
    "steps": ("1", "2", "3"),
    "batch_size": ("2", "3"),
    "gradient_accumulation": ("2",),
    "max_grad_norm": ("null", "0.5"),
    "ema_decay": ("0.9",),
    "seed": ("0", "7"),
    "allow_tf32": ("false",),
    "compile": ("true",),
    "epochs": ("1",),
    "model.dtype": ("float32", "bfloat16", "float16"),
    "checkpoint.every": ("1",),
    "checkpoint.keep": ("1", "null"),
    "checkpoint.background": ("false",),
    "export.merge": ("true",),
    "hub.dry_run": ("true",),
    "optim.lr": ("0", "1e-3"),
    "optim.weight_decay": ("0", "0.1"),
    "optim.decay_norms_and_biases": ("false",),
    "optim.release_gradients": ("true",),
    "optim.stochastic_rounding": ("true",),
    "optim.scale_lr": ("true",),
    "method.rank": ("1", "5"),
    "method.alpha": ("3",),
    "method.dropout": ("0.2",),
    "method.init": ("gaussian", "pissa"),
    "method.parameters": ("attn1", "norm"),
    "lr_scheduler.warmup_steps": ("0", "1", "50"),
    "memory.activations": ("keep", "checkpoint", "selective", "offload"),
    "memory.stream_blocks": ("true",),
    "memory.ff_chunks": ("2", "3"),
    "memory.norms": ("float32",),
    "memory.vae_tiling": ("false",),
    "memory.budget": ("0.01", "1"),
    "data.encode": ("online",),
    "data.reshape": ("resize", "pad", "random"),
    "data.random_flip": ("0.5",),
    "data.caption_dropout": ("0", "1"),
    "data.skip_frames_start": ("1",),
    "data.fps": ("8", "3"),
    "data.holdout": ("1", "0.25", "[videos/0001.mp4]"),
    "data.remainder": ("drop",),
    "data.repeats": ("0.5", "2"),
    "data.workers": ("0", "1"),
    "data.pin_memory": ("false",),
    "data.encode_batch_size": ("2",),
    "task.condition_dropout": ("0", "1"),
    "task.image_scale": ("multiply",),
    "validation.num_videos": ("2",),
    "validation.every": ("1",),
    "validation.baseline": ("false",),
    "validation.guidance_scale": ("1", "2.5"),
    "validation.prompts": ("[a red square,b]", "'a cat:::a dog'"),
}
"""Settings that are drawn beside the groups, and values that differ from what they are by default."""
PROGRAMS: dict[str, tuple[str, ...] | None] = {
    "train": None,
    "memory": None,
    "prepare": ("model", "task", "data", "memory", "distributed", "device"),
    "generate": ("model", "memory", "device"),
}
"""Programs, and how the settings begin that each knows; None: all of them."""
FIXED = ("device=cpu", "data.concept=none", "data.clips=4", "data.holdout=0", "data.decode_workers=1", "steps=2")
SMALL = ("validation.num_inference_steps=2", "validation.offload=true")
NOISE = re.compile(r"Traceback|\w*Warning\b|warnings\.warn|\[rank\d+\]|^\w{3} +\d+ .*(INFO|WARN)", re.MULTILINE)
"""What no user should see: tracebacks, warnings and log lines of libraries."""
NAMED = re.compile(r"\b(?:data|optim|method|memory|validation|model|task|checkpoint|lr_scheduler|distributed)\.\w+")
"""The name of a setting in a message."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command line."""

    command: list[str]
    code: int
    screen: str
    problem: str | None
    """What is wrong with it; None if it ended as it may."""

    @property
    def kind(self) -> str:
        """finished, refused or wrong."""
        return "wrong" if self.problem else "refused" if self.code else "finished"


def random_settings(chance: random.Random) -> list[str]:
    """A command line of `train` on the twins."""
    model = chance.choice(list(TWINS))
    task = TWINS[model] if chance.random() < 0.97 else chance.choice(["t2v", "i2v"])
    drawn = {"model": model, "task": task}
    for group, (usual, share) in GROUPS.items():
        files = (conf_dir() / group).glob("[!_]*.yaml")
        names = sorted(file.stem for file in files if file.stem not in ("wandb", "trackio"))
        drawn[group] = usual if chance.random() < share else chance.choice(names)
    if drawn["distributed"] != "single":
        drawn["distributed.processes"] = "2"
    for setting in chance.sample(list(VALUES), chance.randint(0, 5)):
        if setting.startswith("validation.") and drawn["validation"] == "none":
            continue
        drawn[setting] = chance.choice(VALUES[setting])
    small = SMALL if drawn["validation"] != "none" else ()
    fixed = [text for text in (*FIXED, *small) if text.partition("=")[0] not in drawn]
    return [*(f"{key}={value}" for key, value in drawn.items()), *fixed]


def random_command(chance: random.Random) -> list[str]:
    """A program and its arguments: mostly `train`, sometimes `memory`, `prepare` or a sampling of the base model."""
    settings = random_settings(chance)
    program = chance.choices(("train", "memory", "prepare", "generate"), weights=(70, 15, 10, 5))[0]
    known = PROGRAMS[program]
    settings = [text for text in settings if known is None or text.startswith(known)]
    if program == "generate":
        size = ("generate.num_inference_steps=2", "generate.num_frames=17", "generate.height=32", "generate.width=48")
        settings += [*size, "generate.prompts=a square", f"generate.compare={chance.choice(['true', 'false'])}"]
    return [program, *settings]


def run(command: list[str], folder: Path, cache: Path) -> Outcome:
    """Runs a program with its arguments in `folder` and judges how it ended."""
    program, *arguments = command
    run_dir = [f"run_dir={folder / 'run'}"] if program == "train" else []
    folder.mkdir(parents=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-m", f"cogvx_exp.{program}", *arguments, *run_dir, f"cache_dir={cache}"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=folder,
        check=False,
        timeout=600,
    )
    screen = done.stdout + done.stderr
    return Outcome(command, done.returncode, screen, _problem(command, done.returncode, screen, folder))


def _problem(command: list[str], code: int, screen: str, folder: Path) -> str | None:
    noise = NOISE.search(screen)
    if noise:
        return f"on the screen: {noise[0]}"
    if code == 2:
        keys = {text.partition("=")[0] for text in command[1:]}
        named = any(f"{key}=" in screen for key in keys) or NAMED.search(screen)
        return None if named else "a refusal that names no setting"
    if code != 0:
        return f"exit code {code}"
    if command[0] == "train":
        return _problem_of_run(RunFolder(folder / "run"))
    if command[0] == "generate":
        return None if any(folder.rglob("*.mp4")) else "no video"
    words = {"memory": "Predicted memory", "prepare": "Encoded in"}[command[0]]
    return None if words in screen else f"does not say {words}"


def _problem_of_run(folder: RunFolder) -> str | None:
    losses = [line["loss"] for line in read_metrics(folder.metrics)]
    if not losses or not all(loss == loss and abs(loss) < 1e6 for loss in losses):
        return f"losses {losses}"
    if read_status(folder.path).get("status") != "finished":
        return f"status {json.dumps(read_status(folder.path))}"
    return None if any(folder.export.iterdir()) else "no export"
