"""`python -m cogvx_exp.tiny_model.check`: do videos of the tiny model, or of a run based on it, show what prompts say?

Samples 64 prompts unseen by the base through `cogvx_exp.generate`, and classifies the pixels of the videos.
"""

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from cogvx_exp.console.progress import console
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import write_json, write_text
from cogvx_exp.demo.clips import CONCEPTS, HELD_OUT, held_out_scenes, prompt_of, with_concept
from cogvx_exp.demo.measure import look_at, sharpness
from cogvx_exp.demo.scenes import SHAPES, Scene, draw_scene
from cogvx_exp.generate import main as generate
from cogvx_exp.media.video import read_video

KEPT = 0.08
"""Maximum mean difference, of 1, between a video's first frame and its start image."""
VAE = Path(__file__).parent / "weights" / "shared" / "vae"
"""The bundled autoencoder, which all runs based on the tiny models use."""
SIZE = (9, 32, 32)
"""Frames, height and width of the videos."""

Shares = dict[str, float]
Confusion = dict[str, dict[str, int]]
"""Number of videos by the shape their prompt names and the shape they show."""


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the accuracies and returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cogvx_exp.tiny_model.check", description=__doc__)
    parser.add_argument("--run", type=Path, help="a run based on the tiny model; default: the tiny model itself")
    parser.add_argument("--concept", choices=CONCEPTS, help="the concept it was taught")
    parser.add_argument("--task", choices=("t2v", "i2v"), default="t2v")
    parser.add_argument("--prompts", type=int, choices=range(1, HELD_OUT + 1), default=HELD_OUT, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("outputs/tiny-model-check"))
    parser.add_argument("settings", nargs="*", help="settings of cogvx_exp.generate")
    arguments = parser.parse_args(argv)
    scenes = held_out_scenes()[: arguments.prompts]
    settings = [*arguments.settings, *([f"generate.adapter='{arguments.run}'"] if arguments.run else [])]
    if not arguments.run:
        settings.append("model=tiny-i2v" if arguments.task == "i2v" else "model=tiny")
    try:
        shares = check(scenes, settings, arguments.output, arguments.concept, arguments.task == "i2v")
    except UserError as error:
        print(f"cogvx_exp.tiny_model.check: {error}", file=sys.stderr)
        return 2
    drawn = confusion(scenes, arguments.output / "plain")
    write_json(arguments.output / "shares.json", shares)
    write_json(arguments.output / "shapes.json", drawn)
    console.print(_table(shares))
    console.print()
    console.print(_confusion_table(drawn))
    return 0


def check(
    scenes: Sequence[Scene],
    settings: Sequence[str],
    output: Path,
    concept: str | None,
    from_image: bool = False,
    vae: Path = VAE,
) -> dict[str, Shares]:
    """Samples the scenes' prompts and classifies the videos.

    Args:
        scenes: scenes to sample.
        settings: settings of `cogvx_exp.generate`.
        output: folder for the videos.
        concept: if given, prompts are also sampled with it.
        from_image: whether videos start from the scene's first frame.
        vae: folder of the model's autoencoder.

    Returns:
        For `plain` prompts, and those `with` the concept: the fraction of videos that show each part of their prompt;
        as `concept` the fraction that shows the concept, requested or not; as `sharpness` that of the videos, relative
        to real clips of the same scenes after encoding and decoding.

    Raises:
        UserError: sampling failed.
    """
    asked = {"plain": list(scenes)}
    if concept:
        asked["with " + concept] = [with_concept(scene, concept) for scene in scenes]
    shares = {name: _share(some, settings, output / name, concept, from_image) for name, some in asked.items()}
    for name, some in asked.items():
        sampled = np.mean([sharpness(frames) for frames in _videos(output / name)])
        # The autoencoder limits how sharp a video can be, so it is the reference, not the clips themselves.
        possible = np.mean([sharpness(frames) for frames in reconstructed(some, vae)])
        shares[name]["sharpness"] = round(float(sampled / possible), 3)
    return shares


def confusion(scenes: Sequence[Scene], folder: Path) -> Confusion:
    """Which shapes the videos in a folder show, by the shape their prompt names."""
    pairs = zip(scenes, _videos(folder), strict=True)
    counts = Counter((scene.shape, look_at(frames).shape) for scene, frames in pairs)
    asked = [shape for shape in SHAPES if any(scene.shape == shape for scene in scenes)]
    return {shape: {seen or "none": counts[shape, seen] for seen in (*SHAPES, None)} for shape in asked}


def reconstructed(scenes: Sequence[Scene], vae: Path) -> list[np.ndarray]:
    """Real clips of the scenes after encoding and decoding."""
    # torch is imported late, so that invalid arguments are reported at once.
    import torch
    from diffusers import AutoencoderKLCogVideoX

    model = AutoencoderKLCogVideoX.from_pretrained(vae, torch_dtype=torch.float32).eval()
    clips = []
    for scene in scenes:
        pixels = torch.from_numpy(draw_scene(scene, *SIZE)).permute(3, 0, 1, 2)[None] / 127.5 - 1
        with torch.no_grad():
            decoded = model.decode(model.encode(pixels).latent_dist.mode()).sample
        clips.append(((decoded[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
    return clips


def _videos(folder: Path) -> Iterator[np.ndarray]:
    for path in sorted(folder.glob("*.mp4")):
        yield read_video(path)


def _share(scenes: list[Scene], settings: Sequence[str], folder: Path, concept: str | None, from_image: bool) -> Shares:
    shutil.rmtree(folder, ignore_errors=True)
    write_text(folder / "prompts.txt", "".join(f"{prompt_of(scene)}\n" for scene in scenes))
    command = [*settings, f"generate.prompts='{folder}/prompts.txt'", f"generate.output_dir='{folder}'"]
    if from_image:
        for number, scene in enumerate(scenes):
            Image.fromarray(draw_scene(scene, *SIZE)[0]).save(folder / f"{number:02d}.png")
        write_text(folder / "images.txt", "".join(f"{folder}/{number:02d}.png\n" for number in range(len(scenes))))
        command.append(f"generate.images='{folder}/images.txt'")
    # Through the entry point: what is measured is what a user gets.
    if generate(command):
        raise UserError("the videos could not be sampled; see above")
    found: dict[str, list[bool]] = {}
    for number, (frames, scene) in enumerate(zip(_videos(folder), scenes, strict=True)):
        seen = look_at(frames)
        shown = seen.follows(scene)
        if concept:
            shown["concept"] = getattr(seen, CONCEPTS[concept]) == concept
        if from_image:
            image = np.asarray(Image.open(folder / f"{number:02d}.png"), dtype=float)
            shown["first frame"] = bool(np.abs(frames[0] - image).mean() / 255 < KEPT)
        for name, good in shown.items():
            found.setdefault(name, []).append(good)
    return {name: round(sum(good) / len(good), 3) for name, good in found.items()}


def _table(shares: dict[str, Shares]) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("prompts")
    names = list(dict.fromkeys(name for some in shares.values() for name in some))
    for name in names:
        table.add_column(name, justify="right")
    for prompts, some in shares.items():
        table.add_row(prompts, *(f"{some[name]:.0%}" if name in some else "" for name in names))
    return table


def _confusion_table(drawn: Confusion) -> Table:
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("asked for")
    for seen in next(iter(drawn.values())):
        table.add_column(seen, justify="right")
    for asked, counts in drawn.items():
        table.add_row(asked, *map(str, counts.values()))
    return table


if __name__ == "__main__":
    sys.exit(main())
