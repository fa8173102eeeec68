"""Exports, loaded again: by a fresh process that knows nothing of this project, merged, and by another run."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_trained, load_transformer, pipeline_folder
from tests.conftest import extended
from tests.entry import train as main
from tests.integration.test_matrix import METHODS
from tests.pipeline_inputs import some_inputs

PLAIN_DIFFUSERS = """
import sys, torch
from diffusers import CogVideoXPipeline
base, export, inputs, outputs = sys.argv[1:]
pipe = CogVideoXPipeline.from_pretrained(base)
given = torch.load(inputs, weights_only=True)
with torch.no_grad():
    before = pipe.transformer(**given, return_dict=False)[0]
    pipe.load_lora_weights(export)
    after = pipe.transformer(**given, return_dict=False)[0]
torch.save({"before": before, "after": after}, outputs)
assert not any(name.startswith("cogvx_exp") for name in sys.modules)
"""


@pytest.mark.parametrize(("rank", "alpha"), [extended(8, 8), (4, 16)])
def test_plain_diffusers_loads_the_trained_model(make_job, train_in, tmp_path: Path, rank: int, alpha: int) -> None:
    job = make_job(
        f"method.rank={rank}", f"method.alpha={alpha}", "steps=5", "validation=none", "lr_scheduler=constant"
    )
    transformer = train_in(job, tmp_path / "run").transformer.eval()
    given = some_inputs(transformer.config)
    with torch.no_grad():
        trained = transformer(**given, return_dict=False)[0]
    torch.save(given, tmp_path / "inputs.pt")

    files = [pipeline_folder(job.model, job.cache_dir), tmp_path / "run" / "export", tmp_path / "inputs.pt"]
    command = [sys.executable, "-c", PLAIN_DIFFUSERS, *map(str, files), str(tmp_path / "outputs.pt")]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    fresh = torch.load(tmp_path / "outputs.pt", weights_only=True)

    torch.testing.assert_close(fresh["after"], trained, rtol=1e-5, atol=1e-5)
    assert (fresh["before"] - trained).abs().max() > 1e-2


RELOAD = """
import sys, torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from peft import PeftModel
base, folder, *methods = sys.argv[1:]
given = torch.load(folder + "/in.pt", weights_only=True)
for method in methods:
    export = f"{folder}/{method}/export"
    if method == "sft":
        model = CogVideoXTransformer3DModel.from_pretrained(export + "/transformer")
    else:
        model = CogVideoXTransformer3DModel.from_pretrained(base, subfolder="transformer")
        if method.startswith("lora"):
            pipe = CogVideoXPipeline.from_pretrained(base, transformer=model)
            pipe.load_lora_weights(export)
        else:
            model = PeftModel.from_pretrained(model, export)
    with torch.no_grad():
        torch.save(model.eval()(**given, return_dict=False)[0], f"{folder}/{method}/out.pt")
"""


@pytest.fixture(scope="module")
def reloaded(make_job, train_in, tmp_path_factory) -> Callable[[str], tuple[Path, Path, torch.Tensor]]:
    """By method: the folder of the base, that of the run, and what the trained model gives. One fresh process has
    loaded all of them, without this project's code."""
    folder, trained = tmp_path_factory.mktemp("reloaded"), {}
    for method in METHODS:
        extra = [] if method == "sft" else ["method.rank=4", "method.alpha=12"]
        job = make_job(f"method={method}", "steps=4", "lr_scheduler=constant", "validation=none", *extra)
        transformer = train_in(job, folder / method).transformer.eval()
        given = some_inputs(transformer.config)
        with torch.no_grad():
            trained[method] = transformer(**given, return_dict=False)[0]
    torch.save(given, folder / "in.pt")
    base = pipeline_folder(job.model, job.cache_dir)
    command = [sys.executable, "-c", RELOAD, str(base), str(folder), *METHODS]
    subprocess.run(command, check=True, capture_output=True)
    return lambda method: (base, folder / method, trained[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_fresh_process_loads_what_was_trained(method: str, reloaded, make_job) -> None:
    base, run, trained = reloaded(method)
    torch.testing.assert_close(torch.load(run / "out.pt", weights_only=True), trained, rtol=1e-5, atol=1e-5)

    compute = choose_compute("cpu", make_job().model)
    untouched = load_transformer(base, compute)
    given = some_inputs(untouched.config)
    with torch.no_grad():
        before = untouched(**given, return_dict=False)[0]
        file = next(path for path in (run / "export").iterdir() if path.suffix == ".safetensors" or path.is_dir())
        ours = load_trained(untouched, file, compute).eval()(**given, return_dict=False)[0]
    assert (before - trained).abs().max() > 1e-3
    torch.testing.assert_close(ours, trained, rtol=1e-5, atol=1e-5)


def test_merging_equals_base_and_adapter(make_job, train_in, tmp_path: Path) -> None:
    job = make_job("steps=4", "lr_scheduler=constant", "validation=none", "export.merge=true", "method.alpha=40")
    compute = choose_compute("cpu", job.model)
    train_in(job, tmp_path / "run")
    base = pipeline_folder(job.model, job.cache_dir)
    merged = load_trained(load_transformer(base, compute), tmp_path / "run/export/transformer", compute)
    adapted = load_trained(
        load_transformer(base, compute), tmp_path / "run/export/pytorch_lora_weights.safetensors", compute
    )
    given = some_inputs(merged.config)
    with torch.no_grad():
        torch.testing.assert_close(
            merged(**given, return_dict=False)[0], adapted(**given, return_dict=False)[0], rtol=1e-4, atol=1e-5
        )
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_training_starts_from_another_lora(make_job, train_in, tmp_path: Path, shared_cache: Path, capsys) -> None:
    shared = ["lr_scheduler=constant", "validation=none"]
    train_in(make_job("steps=4", *shared), tmp_path / "first")
    job = make_job("steps=1", "optim.lr=0", f"method.init_from={tmp_path}/first", *shared)
    train_in(job, tmp_path / "second")
    first, second = (
        load_file(tmp_path / name / "export/pytorch_lora_weights.safetensors") for name in ("first", "second")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    settings = [f"cache_dir={shared_cache}", f"run_dir={tmp_path}/third", "steps=1", "validation=none"]
    assert main([*settings, f"method.init_from={tmp_path}/first", "method.rank=3"]) == 2
    assert "use its rank and targets" in capsys.readouterr().err
