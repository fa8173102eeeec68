"""The cache: complete, never stale, byte-identical however it came about."""

import gc
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from cogvx_exp.core.files import file_hash
from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import load_dataset, split_holdout
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.latents import captions, prepare
from cogvx_exp.latents.context import PipelineContext
from cogvx_exp.loading.caption_dropout import draw_caption
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import pipeline_folder
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.tasks.base import build_task
from cogvx_exp.training.run import accelerator_for
from cogvx_exp.training.setup import build_training, prepare_data
from tests.entry import prepare as prepare_main
from tests.entry import train as train_main
from tests.entry import with_twin

CLIPS = 12


def encoded(cache: Path) -> dict[str, str]:
    """Hash of every entry of a cache."""
    return {path.name: file_hash(path) for path in sorted((cache / "encoded").rglob("*.safetensors"))}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cogvx_exp.demo.clips import make_demo

    folder = tmp_path_factory.mktemp("clips")
    make_demo(folder, CLIPS, "none", (17, 96, 144))
    return folder


@pytest.fixture(scope="module")
def settings(root: Path) -> list[str]:
    return ["data=files", f"data.root={root}", "data.random_flip=0.5"]


@pytest.fixture(scope="module")
def undisturbed(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    cache = tmp_path_factory.mktemp("undisturbed")
    assert prepare_main([*settings, f"cache_dir={cache}"]) == 0
    return encoded(cache)


def test_prepare_again_does_nothing(settings, undisturbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert prepare_main([*settings, f"cache_dir={tmp_path}"]) == 0
        assert encoded(tmp_path) == undisturbed
        monkeypatch.setattr(prepare, "load_vae", None)  # would fail if it were called
        monkeypatch.setattr(captions, "load_text_encoder", None)
    assert len(undisturbed) == 2 * CLIPS + len(set((Path(settings[1][10:]) / "prompt.txt").read_text().split("\n")))


def test_killed_at_any_moment_and_repeated_it_is_byte_identical(settings, undisturbed, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cogvx_exp.prepare", *with_twin(settings), f"cache_dir={tmp_path}"]
    chance = random.Random(0)
    for entries in (1, 5, 9):  # after which it is killed, in the midst of the next ones
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        wanted = len(encoded(tmp_path)) + entries
        while process.poll() is None and len(encoded(tmp_path)) < wanted:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.15)
        assert process.poll() is None, "it was too fast to be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert prepare_main([*settings, f"cache_dir={tmp_path}"]) == 0
    assert encoded(tmp_path) == undisturbed
    assert not [path for path in (tmp_path / "encoded").rglob("*.safetensors") if path.name not in undisturbed]


def test_several_processes_make_the_same_and_go_on_where_others_stopped(settings, undisturbed, tmp_path: Path) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "3"}
    command = [sys.executable, "-m", "cogvx_exp.prepare", *with_twin(settings), f"cache_dir={tmp_path}"]
    subprocess.run(command, env=os.environ | place, check=True, capture_output=True)
    assert 0 < len(encoded(tmp_path)) < len(undisturbed)
    subprocess.run([*command, "distributed=ddp", "distributed.processes=2"], check=True, capture_output=True)
    assert encoded(tmp_path) == undisturbed


def test_what_shapes_an_entry_makes_another(root: Path, make_job, tmp_path: Path) -> None:
    pipeline = pipeline_folder(make_job().model, make_job().cache_dir)

    def key(*overrides: str, dtype: str = "auto") -> str:
        job = make_job("data=files", f"data.root={root}", f"model.dtype={dtype}", *overrides)
        clips = load_dataset(job.data, tmp_path).clips[:1]
        compute = choose_compute("cpu", job.model)
        context = PipelineContext(pipeline, compute, job.memory, tmp_path, build_task(job.task))
        return prepare._all_work(clips, job.data, context)[0].key

    before = key()
    assert key() == before
    assert key("data.caption_dropout=0", "data.decode_workers=1", "seed=3") == before
    variants = [
        ["data.height_buckets=[48]"],
        ["data.frame_buckets=[17]", "data.max_num_frames=17"],
        ["data.skip_frames_start=1"],
        ["data.fps=4"],
        ["data.reshape=pad"],
    ]
    keys = {key(*variant) for variant in variants} | {before, key(dtype="bfloat16")}
    assert len(keys) == len(variants) + 2
    video = root / "videos" / "0000.mp4"
    content = video.read_bytes()
    video.write_bytes((root / "videos" / "0001.mp4").read_bytes())
    try:
        assert key() not in keys, "another video under the same name"
    finally:
        video.write_bytes(content)


def test_latents_that_are_not_finite_are_refused_with_the_clips_name(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original, calls = prepare.encode_videos, []

    def sometimes_nan(pixels, vae):
        calls.append(1)
        moments = original(pixels, vae)
        return moments * torch.nan if len(calls) == 3 else moments

    monkeypatch.setattr(prepare, "encode_videos", sometimes_nan)
    assert prepare_main([*settings, f"cache_dir={tmp_path}"]) == 2
    captured = capsys.readouterr()
    assert "1 of 12 rows cannot be used" in captured.err
    (issue,) = (tmp_path / "faults.csv").read_text().splitlines()[1:]
    assert re.search(r",videos/\d{4}.mp4,encoding gave non-finite values", issue)
    assert len(encoded(tmp_path)) > 2 * CLIPS - 2, "the others are kept"


def test_the_encoders_are_gone_before_the_transformer_loads(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import AutoencoderKLCogVideoX
    from transformers import T5EncoderModel

    from cogvx_exp.training import model

    original, alive = model.load_transformer, []

    def look_around(*arguments, **keywords):
        gc.collect()
        encoders = (AutoencoderKLCogVideoX, T5EncoderModel)
        alive.extend(type(thing).__name__ for thing in gc.get_objects() if isinstance(thing, encoders))
        alive.append("looked")
        return original(*arguments, **keywords)

    monkeypatch.setattr(model, "load_transformer", look_around)
    settings = [f"run_dir={tmp_path}/run", f"cache_dir={tmp_path}", "steps=1", "validation=none"]
    assert train_main([*settings, "data=files", f"data.root={root}", "data.workers=0"]) == 0
    assert alive == ["looked"]


def losses(tmp_path: Path, name: str, root: Path, *overrides: str) -> list[float]:
    settings = [f"run_dir={tmp_path / name}", f"cache_dir={tmp_path / 'cache'}", "steps=6", "validation=none"]
    settings += ["data=files", f"data.root={root}", "lr_scheduler=constant", "data.workers=0", *overrides]
    assert train_main(settings) == 0
    return [line["loss"] for line in read_metrics(tmp_path / name / "metrics.jsonl")]


def test_encoding_in_the_loop_gives_the_same_numbers_as_the_cache(root: Path, tmp_path: Path) -> None:
    cached = losses(tmp_path, "cached", root, "batch_size=2", "data.random_flip=0.5")
    online = losses(tmp_path, "online", root, "batch_size=2", "data.encode=online", "data.random_flip=0.5")
    assert online == pytest.approx(cached, rel=1e-4)
    square = ("batch_size=2", "data.width_buckets=[32]")  # of clips that are wider, so that there is something to crop
    random_crops = losses(tmp_path, "crops", root, *square, "data.encode=online", "data.reshape=random")
    assert random_crops != pytest.approx(losses(tmp_path, "middle", root, *square), rel=1e-5)


def test_several_captions_dropout_and_flips_are_drawn_as_often_as_asked(root: Path, make_job, tmp_path: Path) -> None:
    captions = '["one", "two"]'
    lines = [f'{{"caption": {captions}, "video": "videos/{number:04d}.mp4"}}' for number in range(2)]
    (root / "dataset.jsonl").write_text("\n".join(lines))
    settings = [
        "data=jsonl",
        f"data.root={root}",
        "data.caption_dropout=0.2",
        "data.random_flip=0.3",
        "validation=none",
    ]
    job = make_job(*settings)
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, tmp_path / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        samples = build_training(job, data, accelerator).samples
    draws = [SampleIndex(number, number % 2) for number in range(2000)]
    clips, dropout = data.encoded.training, samples.caption_dropout
    drawn = [draw_caption(clips, draw.clip, SampleRandomness(job.seed, draw.sample), dropout) for draw in draws]
    keys = data.encoded.training.captions[0]
    shares = [drawn.count(key) / len(drawn) for key in (*keys, data.encoded.training.no_caption)]
    assert shares == pytest.approx([0.4, 0.4, 0.2], abs=0.04)
    assert np.mean([samples.flipped(draw) for draw in draws]) == pytest.approx(0.3, abs=0.04)
    assert not torch.equal(*(samples.clips.cache.load(entry.moments) for entry in samples.clips.videos[0]))


def test_held_out_videos_never_enter_training(root: Path, make_job, tmp_path: Path) -> None:
    for wanted, count in (("3", 3), ("0.25", 3), ("[videos/0004.mp4]", 1)):
        job = make_job("data=files", f"data.root={root}", f"data.holdout={wanted}")
        dataset = load_dataset(job.data, tmp_path)
        assert len(dataset.held_out) == count
        assert len(dataset.clips) == CLIPS - count
        assert not {clip.row.path for clip in dataset.clips} & {clip.row.path for clip in dataset.held_out}
    again = [
        clip.row.path
        for clip in split_holdout(list(reversed(dataset.clips)), job.data.model_copy(update={"holdout": 3}))[1]
    ]
    assert len(again) == 3


def reference_latents(folder: Path, job, count: int) -> None:
    """A folder as CogVideoX Factory's prepare_dataset.py writes it."""
    generator = torch.Generator().manual_seed(0)
    for name in ("video_latents", "image_latents", "prompt_embeds"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        moments = torch.randn(2 * job.model.vae.latent_channels, 3, 4, 6, generator=generator)
        embeds = torch.randn(226, job.model.transformer.text_embed_dim, generator=generator)
        torch.save(moments, folder / "video_latents" / f"{number}.pt")
        torch.save(moments[:, :1].clone(), folder / "image_latents" / f"{number}.pt")
        torch.save(embeds, folder / "prompt_embeds" / f"{number}.pt")
    (folder / "videos.txt").write_text("".join(f"videos/{number}.mp4\n" for number in range(count)))
    (folder / "prompts.txt").write_text("".join(f"caption {number}\n" for number in range(count)))


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


def test_a_folder_of_the_reference_is_trained_on_and_read_safely(
    make_job, tmp_path: Path, in_tmp: Path, capsys
) -> None:
    folder = tmp_path / "reference"
    reference_latents(folder, make_job(), 4)
    settings = [f"cache_dir={tmp_path / 'cache'}", "data=latents", f"data.root={folder}", "data.workers=0"]
    settings += ["steps=2", "validation=none"]
    assert train_main([*settings, "run_dir=run"]) == 0
    assert "4 of 9x32x48" in capsys.readouterr().out
    torch.save(Bomb(), folder / "video_latents" / "2.pt")
    (folder / "prompt_embeds" / "3.pt").unlink()
    assert train_main([*settings, "run_dir=run2"]) == 2
    out = capsys.readouterr().out
    assert "cannot be read safely" in out
    assert "has no prompt_embeds/3.pt" in out
    assert not Path("exploded").exists()


def test_inspect_shows_the_dataset_without_changing_it(root: Path, tmp_path: Path, capsys) -> None:
    page = tmp_path / "page"
    settings = [f"cache_dir={tmp_path / 'cache'}", "data=files", f"data.root={root}", f"inspect.output_dir={page}"]
    assert prepare_main([*settings, "mode=inspect", "inspect.clips=2"]) == 0
    out = capsys.readouterr().out
    assert "caption tokens" in out
    assert str(Bucket(9, 32, 48)) in out
    html = (page / "index.html").read_text()
    assert html.count("data:image/jpeg;base64,") == 4
    assert "http" not in html.replace("http-equiv", "")
    assert not encoded(tmp_path / "cache")
