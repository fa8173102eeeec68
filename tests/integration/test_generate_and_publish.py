"""generate: image models, several adapters, strengths side by side, replays. The Hub folder."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch._dynamo.utils import counters

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, write_json
from cogvx_exp.media.video import probe_video, read_video
from cogvx_exp.model import compilation
from cogvx_exp.runs.run_folder import RunFolder, read_job
from cogvx_exp.tracking.publish import publish
from tests.entry import generate, train

SHORT = ["steps=3", "lr_scheduler=constant", "validation.num_inference_steps=2", "data.workers=0"]
FAST = ["generate.num_inference_steps=2", "generate.prompts='a red circle'"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> dict[str, RunFolder]:
    folder = tmp_path_factory.mktemp("runs")
    settings = {
        "first": [],
        "second": ["seed=7", "method.rank=4"],
        "whole": ["method=sft"],
        "image": ["model=tiny-5b-i2v", "task=i2v"],
        "dora": ["method=dora"],
    }
    for name, extra in settings.items():
        assert train([f"run_dir={folder}/{name}", f"cache_dir={shared_cache}", *SHORT, *extra]) == 0
    return {name: RunFolder(folder / name) for name in settings}


@pytest.fixture
def sample(shared_cache: Path, in_tmp: Path):
    """Runs generate into a folder and gives back its videos."""

    def run(name: str, *overrides: str) -> list[Path]:
        assert generate([f"cache_dir={shared_cache}", *FAST, *overrides, f"generate.output_dir={name}"]) == 0
        return sorted(Path(name).glob("*.mp4"))

    return run


def test_several_seeds_adapters_and_strengths(runs, sample) -> None:
    first, second = runs["first"].path, runs["second"].path
    assert len(sample("seeds", "generate.num_videos=3")) == 3
    (both,) = sample("both", f"generate.adapter=[{first},{second}]", "generate.weights=[1.0,0.5]")
    (one,) = sample("one", f"generate.adapter={first}")
    assert both.read_bytes() != one.read_bytes()
    (grid,) = sample("grid", f"generate.adapter={first}", "generate.strength=[0.5,1,2]", "generate.compare=true")
    info = probe_video(str(grid))
    assert (info.height, info.width) == (32 + 16, 4 * 48)
    tiles = np.split(read_video(grid)[:, 16:].astype(int), 4, axis=2)
    (base,) = sample("base")
    assert np.abs(tiles[0] - read_video(base)).mean() < 4, "the first tile is the base model's"
    assert np.abs(tiles[2] - read_video(one)).mean() < 4, "strength 1 is as trained"


def test_compiled_blocks_give_the_same_videos(runs, sample, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "BACKEND", "aot_eager")
    adapter = f"generate.adapter={runs['first'].path}"
    (eager,) = sample("eager", adapter, "generate.strength=[1,2]")
    counters.clear()
    (compiled,) = sample("compiled", adapter, "generate.strength=[1,2]", "compile=blocks")
    assert counters["stats"]["unique_graphs"] > 0
    assert np.abs(read_video(compiled).astype(int) - read_video(eager)).mean() < 1


@pytest.mark.parametrize("name", ["whole", "dora", "image"])
def test_every_kind_of_export_is_sampled_from(runs, sample, name: str) -> None:
    Image.fromarray(np.full((64, 64, 3), 90, dtype=np.uint8)).save("start.png")
    image = ["generate.images=start.png"] if name == "image" else []
    (video,) = sample("out", f"generate.adapter={runs[name].path}", *image)
    assert json.loads(video.with_suffix(".json").read_text())["model"]["name"] == read_job(runs[name].path).model.name


def test_a_replay_is_the_same_frame_for_frame(runs, sample, in_tmp: Path, shared_cache: Path, capsys) -> None:
    adapters = f"generate.adapter=[{runs['first'].path},{runs['second'].path}]"
    (video,) = sample("one", adapters, "generate.strength=[0.5,1]", "generate.seed=3", "generate.guidance_scale=2")
    settings = read_json(video.with_suffix(".json"))
    settings["model"]["usual"] = settings["model"].pop("training_defaults")  # as the last release named it
    write_json(video.with_suffix(".json"), settings)
    (again,) = sample("two", f"generate.replay={video.with_suffix('.json')}")
    assert again.read_bytes() == video.read_bytes()
    (last,) = runs["image"].validation(3).glob("*.mp4")
    (again,) = sample("three", f"generate.replay={last.with_suffix('.json')}")
    assert again.read_bytes() == last.read_bytes(), "the last videos of a run come from its export"
    (early,) = runs["first"].validation(0).glob("*.json")
    assert generate([f"cache_dir={shared_cache}", f"generate.replay={early}"]) == 2
    assert "cannot be reproduced" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["generate.images=a.png"], "is for t2v and needs no images"),
        (["model=tiny-5b-i2v"], "is for i2v and needs one image per prompt (1)"),
        (["model=tiny-5b-i2v", "generate.images=nowhere.png"], "the image nowhere.png cannot be opened"),
        (["generate.adapter=[{first},{image}]"], "trained on different models: tiny-5b, tiny-5b-i2v"),
        (["generate.adapter=[{first},{whole}]"], "a full transformer cannot be combined"),
        (["generate.adapter={first}", "generate.weights=[1,2]"], "has 2 values for 1 adapters"),
        (["generate.adapter={whole}", "generate.strength=0.5"], "this is a full transformer"),
        (["generate.adapter={first}/export/pytorch_lora_weights.safetensors", "model=tiny-2b"], "does not fit"),
    ],
)
def test_what_does_not_fit_is_refused(runs, shared_cache: Path, in_tmp: Path, overrides, words: str, capsys) -> None:
    paths = {name: run.path for name, run in runs.items()}
    filled = [text.format(**paths) for text in overrides]
    assert generate([f"cache_dir={shared_cache}", *FAST, *filled]) == 2
    assert words in capsys.readouterr().err


class FakeHub:
    def __init__(self, fail: bool = False):
        self.fail, self.calls = fail, []

    def create_repo(self, repo_id: str, **settings) -> None:
        if self.fail:
            raise RuntimeError("401 Client Error")
        self.calls.append((repo_id, settings))

    def upload_folder(self, **settings) -> None:
        files = {path.relative_to(settings["folder_path"]).as_posix() for path in settings["folder_path"].rglob("*")}
        self.calls.append((settings["repo_id"], files))


def test_publishing(runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_planted_secret")
    run = runs["first"]
    job = read_job(run.path)
    job = job.model_copy(update={"hub": job.hub.model_copy(update={"push": True, "repo": "someone/my-lora"})})
    hub = FakeHub()
    folder = publish(job, run, {}, hub)
    assert hub.calls[0] == ("someone/my-lora", {"private": False, "exist_ok": True})
    assert {"README.md", "config.yaml", "pytorch_lora_weights.safetensors", "videos"} <= hub.calls[1][1]
    card = (folder / "README.md").read_text()
    for words in ("base_model: tiny-5b", 'pipe.load_lora_weights("someone/my-lora")', "TOYSHAPES", "| steps | 3"):
        assert words in card, card
    secrets = [path for path in run.path.rglob("*") if path.is_file() and b"hf_planted_secret" in path.read_bytes()]
    assert not secrets
    with pytest.raises(UserError, match=r"could not be written.*hf auth login"):
        publish(job, run, {}, FakeHub(fail=True))
    dry = job.model_copy(update={"hub": job.hub.model_copy(update={"dry_run": True})})
    silent = FakeHub()
    publish(dry, run, {}, silent)
    assert silent.calls == []
    assert os.environ["HF_TOKEN"] == "hf_planted_secret"
