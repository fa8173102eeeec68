"""Predicted memory against the bytes that the software CUDA device counts in a run, phase by phase: within 10 %.

The models are tiny ones, widened until weights and activations are tens of MiB.

Not compared are peaks with quant=nf4, since bitsandbytes unpacks through large tables of integers where it has no
kernels, and with optimizers of torchao, which are not compiled here and make temporary copies of each weight.
"""

import json
from pathlib import Path

import pytest

from cogvx_exp.estimate import prediction
from cogvx_exp.estimate.prediction import predict
from cogvx_exp.latents.captions import CAPTIONS_AT_ONCE
from cogvx_exp.model.offload import blocks
from tests.conftest import MakeJob
from tests.software_cuda.runs import Case, Outcome, run_selected

WIDE = [
    "model.transformer.num_attention_heads=10",
    "model.transformer.attention_head_dim=64",
    "model.transformer.num_layers=2",
    "model.native.num_frames=17",
    "model.native.height=64",
    "model.native.width=96",
]
BASE = ["steps=2", "lr_scheduler=constant", "data.workers=0", "data.decode_workers=1", "memory.preflight=false"]
BASE += ["checkpoint.background=false"]
VIDEOS = "validation.every=1 validation.num_inference_steps=1 validation.height=96 validation.width=128"
KEEP, CHECKPOINT = "memory.activations=keep", "memory.activations=checkpoint"
CORE = {
    "bfloat16, full": f"model.dtype=bfloat16 method=sft {CHECKPOINT} {VIDEOS} validation.offload=false",
}
"""In `make test`."""

DEEP = "model.transformer.num_layers=6"
NF4 = "quant nf4"
I2V = "model=tiny-5b-i2v task=i2v"
WHOLE = (
    {"keep": f"{KEEP} {VIDEOS}"}
    | {name: f"memory.activations={name} validation=none" for name in ("checkpoint", "selective", "offload")}
    | {f"quant {name} keep": f"quant={name} {KEEP} {VIDEOS}" for name in ("int8", "fp8")}
    | {f"quant {name} checkpoint": f"quant={name} {CHECKPOINT} validation=none" for name in ("int8", "fp8")}
    | {f"quant {name} in 8 bits": f"quant={name} quant.compute=8bit {KEEP} validation=none" for name in ("int8", "fp8")}
    | {f"quant {name} bfloat16": f"quant={name} {KEEP} model.dtype=bfloat16 {VIDEOS}" for name in ("int8", "fp8")}
    | {f"full {name}": f"method=sft optim={name} {CHECKPOINT} {VIDEOS}" for name in ("adamw8bit", "cpu_offload")}
    | {
        "chunks": f"{CHECKPOINT} memory.ff_chunks=4 validation=none",
        "streamed blocks": f"memory=12gb {DEEP} {VIDEOS}",
        "streamed blocks bfloat16": f"memory=12gb {DEEP} model.dtype=bfloat16 {VIDEOS} validation.offload=false",
        "no offload": f"{KEEP} {VIDEOS} validation.offload=false",
        "full": f"method=sft {CHECKPOINT} {VIDEOS}",
        "full keep": f"method=sft {KEEP} validation=none",
        "full cpu_offload_bf16": f"method=sft optim=cpu_offload_bf16 model.dtype=bfloat16 memory=24gb {VIDEOS}",
        "full cpu_offload, gradients kept": f"method=sft optim=cpu_offload optim.offload_gradients=false {CHECKPOINT} "
        f"{VIDEOS}",
        "full released": f"method=sft optim.release_gradients=true max_grad_norm=null {CHECKPOINT} {VIDEOS}",
        "average": f"ema_decay=0.9 {KEEP} {VIDEOS}",
        "full average": f"method=sft ema_decay=0.9 {CHECKPOINT} {VIDEOS}",
        "accumulation": f"gradient_accumulation=2 {KEEP} validation=none",
        "full accumulation": f"method=sft gradient_accumulation=2 {CHECKPOINT} validation=none",
        "i2v": f"{I2V} {KEEP} {VIDEOS}",
        "i2v full": f"{I2V} method=sft {CHECKPOINT} validation=none",
        "i2v online": f"{I2V} data.encode=online {CHECKPOINT} validation=none",
        "online": f"data.encode=online {KEEP} validation=none",
        "1.5": f"model=tiny-1.5 {KEEP} {VIDEOS}",
        "2b float16": f"model=tiny-2b model.dtype=float16 {KEEP} {VIDEOS}",
        "float16": f"model.dtype=float16 {CHECKPOINT} {VIDEOS}",
        "bfloat16": f"model.dtype=bfloat16 {KEEP} {VIDEOS}",
        "bfloat16 selective": "model.dtype=bfloat16 memory.activations=selective validation=none",
        "norms in float32": f"model.dtype=bfloat16 memory.norms=float32 {KEEP} validation=none",
        "batches of two": f"batch_size=2 {KEEP} validation=none",
        NF4: f"quant=nf4 {CHECKPOINT} validation=none",
        "wide text encoder": "model.text_encoder.d_model=512 model.text_encoder.d_ff=1024 validation=none "
        "model.transformer.text_embed_dim=512",
        "wide VAE": "model.vae.block_out_channels=[32,32,64,64] validation=none",
    }
)
"""In `make test-cuda`."""

CASES = CORE | WHOLE
ENCODES = {"keep", "wide text encoder", "wide VAE"}
"""Those with a cache of their own, so that they encode."""

TRAINING = {"before_training", "before_validation"}
SAMPLING = {"after_validation", "after_testing"}


def settings_of(name: str) -> list[str]:
    """The settings of a case; its own come last."""
    own = CASES[name].split()
    given = {text.partition("=")[0] for text in own}
    return [*BASE, *(text for text in WIDE if text.partition("=")[0] not in given), *own]


def slug(name: str) -> str:
    """The name of a case's folder."""
    return name.replace(",", "").replace(" ", "-")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, folder: Path, shared_cache: Path) -> dict[str, list[Outcome]]:
    """The runs of the selected cases."""

    def case(name: str) -> list[Case]:
        run = folder / slug(name)
        cache = folder / f"{slug(name)}-cache" if name in ENCODES else shared_cache
        return [Case([*settings_of(name), f"cache_dir={cache}", f"run_dir={run}", "device=cuda"], races=0, park=1)]

    return run_selected(request, case)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are."""
    return tmp_path_factory.mktemp("runs")


@pytest.mark.parametrize(
    "name", [*CORE, *(pytest.param(name, marks=pytest.mark.cuda_matrix) for name in WHOLE if name != NF4)]
)
def test_prediction_is_near_what_the_device_counts(
    name: str, outcomes: dict[str, list[Outcome]], folder: Path, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    (outcome,) = outcomes[name]
    assert outcome.code == 0, outcome.text[-6000:]
    summary = json.loads((folder / slug(name) / "summary.json").read_text())
    counted = summary["memory_figures"] | {"encoding": summary["memory"]["encoding"]["peak_gib"]}
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    if name == "wide text encoder":  # the demo has fewer captions than are encoded at once
        captions = set(next((folder / "wide-text-encoder-cache").rglob("prompt.txt")).read_text().splitlines())
        monkeypatch.setattr(prediction, "CAPTIONS_AT_ONCE", min(CAPTIONS_AT_ONCE, len(captions)))
    predicted = predict(make_job(*settings_of(name))).phases
    compared = TRAINING | ({"encoding"} if name in ENCODES else set())
    compared |= SAMPLING if "validation=none" not in CASES[name] else set()
    deviations = {phase: round(predicted[phase] / counted[phase] - 1, 4) for phase in sorted(compared)}
    print(f"\n{name}: {deviations}")
    assert deviations == pytest.approx(dict.fromkeys(compared, 0), abs=0.1), counted


@pytest.mark.cuda_matrix
@pytest.mark.parametrize("name", [NF4])
def test_weights_in_nf4_take_what_is_predicted(
    name: str, outcomes: dict[str, list[Outcome]], folder: Path, make_job: MakeJob
) -> None:
    assert outcomes[name][0].code == 0, outcomes[name][0].text[-6000:]
    counted = json.loads((folder / slug(name) / "summary.json").read_text())["memory"]["before_training"]
    predicted = predict(make_job(*settings_of(name)))
    print(f"\n{name}: {predicted.weights + predicted.trained} of {counted}")
    assert predicted.weights + predicted.trained == pytest.approx(counted["allocated_gib"], rel=0.05)
