"""The matrix of test_cuda_matrix.py on the real device: losses of the CPU. Skipped where there is no GPU.

`python -m benchmarks.gpu tests` runs these and writes their results down.
"""

import os
from pathlib import Path

import pytest
import torch

from cogvx_exp.core.files import read_json
from cogvx_exp.model.offload import blocks
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder
from tests.conftest import needs_compiler
from tests.entry import generate, prepare, train
from tests.integration.test_cuda_matrix import BASE, CASES, both, tolerance
from tests.integration.test_cuda_processes import SHARED, WAYS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

COMPILED = {
    "lora": "model.dtype=bfloat16",
    "sft": "method=sft model.dtype=bfloat16 memory.activations=keep",
    "streamed": "memory=12gb model.dtype=bfloat16",
    "nf4": "quant=nf4 model.dtype=bfloat16",
    "fp8 in 8 bits": "quant=fp8 quant.compute=8bit model.dtype=bfloat16",
    "int8 in 8 bits": "quant=int8 quant.compute=8bit model.dtype=bfloat16",
    "float16": "model.dtype=float16",
}
"""With compile=blocks, by inductor."""
FLOAT32 = 1e-3
"""Relative: kernels of a GPU add up in another order than those of a CPU, and three steps multiply that."""


def losses(settings: list[str]) -> list[float]:
    """Of each step of a run; its folder is the last setting."""
    os.environ.pop("DS_ACCELERATOR", None)  # of a run on the other device
    assert train([*settings[:-1], "allow_tf32=false", settings[-1]]) == 0
    return [line["loss"] for line in read_metrics(RunFolder(Path(settings[-1].removeprefix("run_dir="))).metrics)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("name", CASES)
def test_losses_are_those_of_the_cpu(name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_compiler(CASES[name].partition("optim=")[2])
    on_gpu, on_cpu = both(CASES[name], tmp_path / "run", cache)
    with monkeypatch.context() as patch:
        patch.setattr(blocks, "WORTH_PARKING", on_gpu.park)
        torch.cuda.reset_peak_memory_stats()
        found = losses(list(on_gpu.settings))
    assert torch.cuda.max_memory_allocated() > 100_000, "it ran on the device"
    assert found == pytest.approx(losses(list(on_cpu.settings)), rel=max(FLOAT32, tolerance(CASES[name])))


@pytest.mark.parametrize("name", COMPILED)
def test_compiled_blocks_give_the_losses_of_eager_ones(name: str, cache: Path, tmp_path: Path) -> None:
    if torch.cuda.get_device_name().startswith("Software"):
        pytest.skip("inductor writes no code for the software device")
    shared = [*BASE, f"cache_dir={cache}", "validation=none", "device=cuda", *COMPILED[name].split()]
    compiled = losses([*shared, "compile=blocks", f"run_dir={tmp_path}/compiled"])
    assert compiled == pytest.approx(losses([*shared, f"run_dir={tmp_path}/eager"]), rel=tolerance(COMPILED[name]))


@pytest.mark.parametrize("optim", ["adamw", "adamw8bit", "paged_adamw8bit", "cpu_offload", "ao_adamw8bit", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(optim: str, cache: Path, tmp_path: Path) -> None:
    needs_compiler(optim)
    shared = [*BASE[1:], f"cache_dir={cache}", f"optim={optim}", "validation=none", "device=cuda", "steps=4"]
    whole = losses([*shared, "checkpoint.every=2", f"run_dir={tmp_path}/run"])
    again = [*shared, f"resume={tmp_path}/run/checkpoints/step-000002", f"run_dir={tmp_path}/again"]
    assert losses(again) == pytest.approx(whole[2:], rel=1e-4)


def test_clips_are_encoded_and_videos_generated(cache: Path, tmp_path: Path) -> None:
    shared = [f"cache_dir={cache}/encoded", "device=cuda"]
    assert prepare([*shared, "data.workers=0"]) == 0
    run = tmp_path / "run"
    assert train([*BASE, *shared, "validation=none", f"run_dir={run}"]) == 0
    assert (
        generate(
            [
                *shared,
                "generate.num_inference_steps=2",
                f"generate.adapter={run}",
                f"generate.output_dir={tmp_path}/videos",
            ]
        )
        == 0
    )
    assert list((tmp_path / "videos").rglob("*.mp4"))


def test_the_kernels_of_a_step_belong_to_its_parts(cache: Path, tmp_path: Path) -> None:
    settings = [*BASE, f"cache_dir={cache}", "validation=none", "device=cuda", "memory.activations=checkpoint"]
    profile = ["profile=true", "profile.skip=0", "profile.record=1"]
    assert train([*settings, *profile, f"run_dir={tmp_path}/run"]) == 0
    found = read_json(RunFolder(tmp_path / "run").profile / "parts.json")
    parts = {row["part"]: row for row in found["rows"]}
    assert found["title"].endswith("by GPU activity")
    for name in ("attention", "feed-forward", "norms and modulation", "adapter"):
        assert min(parts[name][phase] for phase in ("kernels", "forward_ms", "backward_ms", "recomputed_ms")) > 0, name
    assert parts["optimizer"]["kernels"] > 0
    assert parts["logging"]["synchronisations"] == 1
    assert parts["other"]["ms"] < 0.05 * parts["step"]["ms"]


@pytest.mark.parametrize(("how", "more"), WAYS)
def test_processes_with_a_gpu_each_give_the_numbers_of_one(
    how: str, more: list[str], cache: Path, tmp_path: Path
) -> None:
    """By nccl."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    shared = [*SHARED, *more, f"cache_dir={cache}"]
    together = losses([*shared, "device=cuda", f"distributed={how}", f"run_dir={tmp_path}/two"])
    alone = losses([*shared, "device=cpu", "gradient_accumulation=2", f"run_dir={tmp_path}/one"])
    assert together == pytest.approx(alone, rel=FLOAT32)
