"""Throughput of `prepare` against a plain loop: `python benchmarks/prepare.py CLIP.mp4`.

Both encode the same clips with the VAE of CogVideoX-5b (random weights) at a small size. The plain loop
decodes a clip, encodes it, encodes its caption, saves both, and takes the next; it is run with the
model's own type and with float32, which diffusers loads by default. `VAE alone` has all clips decoded
before: what prepare cannot beat. Loading the models counts everywhere but there.
"""

# Decoding processes import this file: what is heavy is imported in the functions.
import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

SMALL = (
    "model=5b",
    "model.weights=random",
    "model.transformer.num_layers=1",
    "model.transformer.num_attention_heads=2",
    "data=files",
    "data.max_num_frames=9",
    "data.height_buckets=[96]",
    "data.width_buckets=[144]",
)


def make_clips(root: Path, source: Path, count: int) -> None:
    """`count` copies of a real clip that differ in content, so that none is encoded twice."""
    (root / "videos").mkdir(parents=True)
    for number in range(count):
        copy = root / "videos" / f"{number}.mp4"
        shutil.copy(source, copy)
        with copy.open("ab") as file:
            file.write(b"\0\0\0\x0cfree" + number.to_bytes(4, "big"))
    (root / "videos.txt").write_text("".join(f"videos/{number}.mp4\n" for number in range(count)))
    (root / "prompt.txt").write_text("".join(f"caption number {number}\n" for number in range(count)))


def plain_loop(dataset: Any, job: Any, context: Any, out: Path) -> float:
    """Seconds of a loop that does one thing after another."""
    import torch
    from diffusers import AutoencoderKLCogVideoX

    from cogvx_exp.latents.encode import encode_captions, encode_videos, to_pixels
    from cogvx_exp.model.load import load_text_encoder

    started = time.perf_counter()
    vae = AutoencoderKLCogVideoX.from_pretrained(context.folder / "vae", torch_dtype=context.compute.dtype)
    tokenizer, text_encoder = load_text_encoder(context.folder, context.compute)
    out.mkdir()
    for clip in dataset.clips:
        moments = encode_videos(to_pixels([decode(clip, job)], vae.device), vae)
        embeds = encode_captions(list(clip.row.captions), tokenizer, text_encoder, context.max_tokens)
        torch.save(moments, out / f"{clip.row.number}.latent.pt")
        torch.save(embeds, out / f"{clip.row.number}.embeds.pt")
    return time.perf_counter() - started


def vae_alone(dataset: Any, job: Any, context: Any) -> float:
    """Seconds of encoding clips that are decoded already."""
    from cogvx_exp.latents.encode import encode_videos, to_pixels
    from cogvx_exp.model.load import load_vae

    vae = load_vae(context.folder, context.compute, context.memory)
    pixels = [to_pixels([decode(clip, job)], vae.device) for clip in dataset.clips]
    started = time.perf_counter()
    for clip in pixels:
        encode_videos(clip, vae)
    return time.perf_counter() - started


def prepare(dataset: Any, job: Any, context: Any) -> float:
    """Seconds of what `python -m cogvx_exp.prepare` does."""
    from cogvx_exp.latents.dataset import encode_dataset

    started = time.perf_counter()
    encode_dataset(dataset, job.data, context, [], None)
    return time.perf_counter() - started


def decode(clip: Any, job: Any) -> Any:
    """The frames of a clip."""
    from cogvx_exp.data.decoding import read_clip
    from cogvx_exp.data.frames import choose_frames
    from cogvx_exp.data.resize import ResizeSpec

    choice = choose_frames(job.data, clip.bucket.num_frames)
    return read_clip(clip.row.path, choice, clip.bucket, ResizeSpec(job.data.reshape), clip.info)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="a real video; all clips are copies of it")
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    from cogvx_exp.console.quiet import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        measure(options.clip, options.count, Path(folder))


def measure(source: Path, count: int, folder: Path) -> None:
    """Runs everything and prints the table."""
    import torch
    from hydra import compose, initialize_config_dir

    from cogvx_exp.config.paths import conf_dir
    from cogvx_exp.config.schema import PrepareJob
    from cogvx_exp.config.typed import typed
    from cogvx_exp.console.progress import console
    from cogvx_exp.data.dataset import load_dataset
    from cogvx_exp.latents.context import PipelineContext
    from cogvx_exp.model.device import Compute
    from cogvx_exp.model.load import pipeline_folder
    from cogvx_exp.tasks.base import build_task

    console.quiet = True
    make_clips(folder / "clips", source, count)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        settings = [*SMALL, f"data.root={folder}/clips", f"cache_dir={folder}/cache"]
        job = typed(compose("prepare", settings), PrepareJob)
    dataset = load_dataset(job.data, job.cache_dir)
    pipeline = pipeline_folder(job.model, job.cache_dir)
    single, half = (
        PipelineContext(pipeline, Compute(torch.device("cpu"), dtype), job.memory, job.cache_dir, build_task(job.task))
        for dtype in (torch.float32, torch.bfloat16)
    )
    seconds = {
        "plain loop, float32": plain_loop(dataset, job, single, folder / "single"),
        "plain loop, bfloat16": plain_loop(dataset, job, half, folder / "half"),
        "prepare, bfloat16": prepare(dataset, job, half),
        "VAE alone, bfloat16": vae_alone(dataset, job, half),
    }
    clip = dataset.clips[0]
    print(f"{count} clips of {clip.bucket}, from {clip.info.num_frames} frames of {clip.info.height}x{clip.info.width}")
    for name, value in seconds.items():
        times = value / seconds["prepare, bfloat16"]
        print(f"{name:<22}{60 * count / value:6.1f} clips/min   prepare is {times:4.2f} x as fast")


if __name__ == "__main__":
    main()
