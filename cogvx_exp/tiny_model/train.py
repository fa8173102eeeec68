"""Trains the tiny models from scratch with this program.

The bundled weights had a similar training on the same scenes: 1,500 steps on single frames, 5,500 on clips, and 1,000
as an image-to-video model.
"""

import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from hydra import compose, initialize_config_dir
from transformers import T5EncoderModel

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import Model, TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.files import read_json, whole_folder, write_json
from cogvx_exp.demo.clips import held_out_scenes, training_scenes, write_clips
from cogvx_exp.demo.scenes import BACKGROUNDS, DIRECTIONS, SHAPES, varied
from cogvx_exp.model.build import build_pipeline, build_transformer, vae_arguments
from cogvx_exp.model.source import put_together
from cogvx_exp.tiny_model.check import check
from cogvx_exp.tiny_model.train_vae import PHASES, train_vae

CLIPS = 2000
SIZE = (9, 64, 64)
"""Frames, height and width of the clips; they are resized to half of it."""
BATCH = 16
WORDS = [
    *("a", "an", "the", "on", "in", "of", "and", "is", "moving", "background", "video", "shape"),
    *("red", "green", "blue", "yellow", "purple"),
    *BACKGROUNDS,
    *SHAPES,
    *DIRECTIONS,
]
"""Words that are single tokens; all others are spelled, the other colours too."""


@dataclass(frozen=True)
class Part:
    """One training run, with a learning rate that rises and falls."""

    model: str
    run: str
    """Name of its folder."""
    steps: int
    after: "Part | None" = None
    """The run whose transformer it starts from."""

    @property
    def task(self) -> str:
        """t2v or i2v."""
        return "i2v" if self.model.endswith("i2v") else "t2v"

    def trained(self, folder: Path) -> Path:
        """The transformer it has trained."""
        return folder / self.run / "export" / "transformer"

    def start(self, folder: Path) -> Path:
        """The pipeline it starts from."""
        return folder / f"{self.run}-start"


def rebuild(folder: Path) -> None:
    """Trains all weights, in folder/weights. Existing parts are skipped."""
    vae = _vae(folder / "vae")
    clips = folder / "clips"
    if not (clips / "videos.txt").exists():
        chance = random.Random(0)
        scenes = training_scenes()
        write_clips(clips, [varied(scenes[index % len(scenes)], chance) for index in range(CLIPS)], SIZE)
    text = Part("tiny", "t2v", 6000)
    image = Part("tiny-i2v", "i2v", 1500, after=text)
    for part in (text, image):
        _train(part, folder, clips, vae)
    _gather(folder, [text, image])
    measures = {"vae": read_json(folder / "vae" / "measures.json")}
    for part in (text, image):
        bundled = put_together(folder / "weights", part.model, folder / "cache")
        settings = [f"model={part.model}", "model.weights=pretrained", f"model.path={bundled}"]
        output = folder / "check" / part.model
        shares = check(held_out_scenes(), settings, output, None, part.task == "i2v", folder / "vae")
        measures[part.model] = shares["plain"]
    write_json(folder / "weights" / "measures.json", measures)


def _model(name: str, task: str) -> Model:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(compose("train", [f"model={name}", f"task={task}"]), TrainJob).model


def _vae(folder: Path) -> AutoencoderKLCogVideoX:
    if not folder.exists():
        trained = train_vae(vae_arguments(_model("tiny", "t2v").vae), PHASES, seed=0)
        with whole_folder(folder) as tmp:
            trained.vae.save_pretrained(tmp)
            write_json(tmp / "measures.json", {"l1": trained.l1})
    return AutoencoderKLCogVideoX.from_pretrained(folder)


def _train(part: Part, folder: Path, clips: Path, vae: AutoencoderKLCogVideoX) -> None:
    """Trains a transformer with this program."""
    start = part.start(folder)
    if not start.exists():
        model = _model(part.model, part.task)
        learned = {"transformer": _widened(part.after.trained(folder), model)} if part.after else {}
        build_pipeline(model, start, WORDS, {"vae": vae, **learned})
    # Finished parts are skipped, so a rebuild that was killed goes on where it stopped.
    if part.trained(folder).exists():
        return
    settings = {
        "model": part.model,
        "model.weights": "pretrained",
        "model.path": start,
        # Half the time of float32 on CPUs with matrix units (AMX). The trained weights stay in float32. In bfloat16,
        # the backward pass of the fused attention takes twice as long as plain products.
        "model.dtype": "bfloat16",
        "attention": "math",
        "task": part.task,
        "method": "sft",
        "data": "files",
        "data.root": clips,
        "steps": part.steps,
        "batch_size": BATCH,
        "optim.lr": 1e-3,
        "optim.betas": "[0.9,0.95]",
        "lr_scheduler": "cosine",
        "lr_scheduler.warmup_steps": part.steps // 10,
        "ema_decay": 0.998,
        "validation": "none",
        "checkpoint.every": 250,
        "run_dir": folder / part.run,
        "cache_dir": folder / "cache",
        "resume": "auto",
    }
    command = [sys.executable, "-m", "cogvx_exp.train", *(f"{key}={value}" for key, value in settings.items())]
    subprocess.run(command, check=True)


def _widened(trained: Path, model: Model) -> CogVideoXTransformer3DModel:
    """A trained transformer with a model's number of input channels; the new channels have zero weights."""
    wide = build_transformer(model)
    weights = CogVideoXTransformer3DModel.from_pretrained(trained).state_dict()
    name = "patch_embed.proj.weight"
    narrow = weights[name]
    weights[name] = torch.zeros_like(wide.state_dict()[name])
    # Zeros for the image's channels: the model begins as the text-to-video one.
    weights[name][:, : narrow.shape[1]] = narrow
    wide.load_state_dict(weights)
    return wide


def _gather(folder: Path, parts: list[Part]) -> None:
    """Collects the bundled files: in half precision, with shared parts stored once."""
    there, start = folder / "weights", parts[0].start(folder)
    T5EncoderModel.from_pretrained(start / "text_encoder").half().save_pretrained(there / "shared" / "text_encoder")
    AutoencoderKLCogVideoX.from_pretrained(start / "vae").half().save_pretrained(there / "shared" / "vae")
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(start / name, there / "shared" / name, dirs_exist_ok=True)
    for part in parts:
        half = CogVideoXTransformer3DModel.from_pretrained(part.trained(folder)).half()
        half.save_pretrained(there / part.model / "transformer")
        shutil.copy(part.start(folder) / "model_index.json", there / part.model)
