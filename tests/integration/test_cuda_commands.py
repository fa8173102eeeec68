"""`prepare` and `generate` on the software CUDA device, and the memory check before a run, against the CPU."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvx_exp.media.video import read_video
from tests.software_cuda.runs import Case, Outcome, cache_in, run_all, run_selected

SHORT = ["steps=2", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false", "validation=none"]
DECODING = "data.decode_workers=1"
SAMPLING = ["generate.num_inference_steps=2", "generate.prompts=[a red circle]", "generate.guidance_scale=2"]
PREPARED = {"prepare clips": "", "prepare mirrored clips and images": "model=tiny-5b-i2v task=i2v data.random_flip=0.5"}
GENERATED = {
    "generate from a LoRA, streamed": ("", "memory=12gb"),
    "generate from a LoRA": ("", "generate.strength=[0.5,1] generate.compare=true"),
    "generate from a whole transformer": ("method=sft", ""),
    "generate from a whole transformer, streamed": ("method=sft", "memory=12gb"),
    "generate from DoRA": ("method=dora", "memory=16gb"),
    "generate from images": ("model=tiny-1.5-i2v task=i2v", "generate.images=[{image}]"),
}
pytestmark = pytest.mark.cuda_matrix


def place(folder: Path, name: str) -> Path:
    return folder / str([*PREPARED, *GENERATED].index(name))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("commands")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, folder: Path) -> dict[str, list[Outcome]]:
    def cases(name: str) -> list[Case]:
        own = place(folder, name)
        return prepared(PREPARED[name], own) if name in PREPARED else generated(*GENERATED[name], folder, own)

    return run_selected(request, cases)


def prepared(settings: str, own: Path) -> list[Case]:
    """Encodes on the device, trains on what was encoded; does both on the CPU."""
    shared = [*SHORT, DECODING, *settings.split()]
    return [
        Case(["device=cuda", f"cache_dir={own}/cuda", DECODING, *settings.split()], "prepare"),
        Case([*shared, "device=cuda", f"cache_dir={own}/cuda", f"run_dir={own}/run"]),
        Case([*shared, "device=cpu", f"cache_dir={own}/cpu", f"run_dir={own}/run-cpu"]),
    ]


def generated(training: str, sampling: str, folder: Path, own: Path) -> list[Case]:
    """Trains on the device, and samples there, on the CPU, and from the base."""
    run, shared = f"run_dir={own}/run", [f"cache_dir={cache_in(folder)}", *SAMPLING]
    train = [*SHORT, DECODING, f"cache_dir={cache_in(folder)}", *training.split(), "optim.lr=0.05", "device=cuda", run]
    image = folder / "image.png"
    Image.new("RGB", (48, 32), (200, 60, 30)).save(image)
    adapted = [*shared, *sampling.format(image=image).split(), f"generate.adapter={own}/run"]
    base = [*shared, "device=cuda", f"generate.output_dir={own}/base"]
    return [
        Case(train),
        Case([*adapted, "device=cuda", f"generate.output_dir={own}/cuda"], "generate", park=1),
        Case([*adapted, "device=cpu", f"generate.output_dir={own}/cpu"], "generate"),
        Case(base, "generate"),
    ]


@pytest.mark.parametrize("name", PREPARED)
def test_training_reads_what_was_prepared_on_the_device(
    name: str, outcomes: dict[str, list[Outcome]], folder: Path
) -> None:
    for outcome in outcomes[name]:
        assert outcome.code == 0, outcome.text[-4000:]
        assert outcome.races == []
    encoding, cuda, cpu = outcomes[name]
    assert encoding.usage["peak"] > 100_000, "it ran on the device"
    assert cuda.losses == pytest.approx(cpu.losses, rel=1e-4)
    own = place(folder, name)
    encoded = [path for path in (own / "cuda/encoded").rglob("*") if path.is_file()]
    assert len(encoded) > 8, "clips and captions"
    assert max(path.stat().st_mtime_ns for path in encoded) < (own / "run/config.yaml").stat().st_mtime_ns


@pytest.mark.parametrize("name", GENERATED)
def test_videos_are_those_of_the_cpu(name: str, outcomes: dict[str, list[Outcome]], folder: Path) -> None:
    for outcome in outcomes[name]:
        assert outcome.code == 0, outcome.text[-4000:]
        assert outcome.races == []
    assert outcomes[name][1].usage["peak"] > 100_000, "it ran on the device"
    cuda, cpu, base = (pixels(place(folder, name) / made) for made in ("cuda", "cpu", "base"))
    assert np.abs(cuda - cpu).mean() < 0.5
    if cuda.shape == base.shape:
        assert np.abs(cuda - base).mean() > 2, "the adapter matters"


def pixels(folder: Path) -> np.ndarray:
    (video,) = folder.glob("*.mp4")
    return read_video(video).astype(np.float32)


def test_a_run_that_fits_is_let_through_with_its_prediction(tmp_path: Path) -> None:
    settings = [text for text in SHORT if text != "memory.preflight=false"]
    settings += [f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run", "device=cuda"]
    (outcome,) = run_all([Case(settings, total_mib=2048)])
    assert outcome.code == 0, outcome.text[-4000:]
    assert "of 2.0 GiB" in outcome.text
    assert len(outcome.losses) == 2
