"""`profile=true`: what a run records, and that training is unaffected."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.files import read_json
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder
from tests.conftest import MakeJob
from tests.entry import train
from tests.integration.conftest import Train

SHORT = ("steps=5", "batch_size=2", "validation=none", "lr_scheduler.warmup_steps=1")
PROFILED = ("profile.enabled=true", "profile.skip=1", "profile.warmup=1", "profile.record=2")
STEPS = (3, 4)
"""The steps that are recorded."""
KINDS = {
    "lora": ("method=lora", "memory.activations=keep", "data.encode=online"),
    "sft": ("method=sft", "memory.activations=checkpoint", "gradient_accumulation=2"),
}
TIMES = ("forward_ms", "backward_ms", "recomputed_ms")


def parts_of(run: RunFolder) -> dict[str, dict[str, Any]]:
    return {row["part"]: row for row in read_json(run.profile / "parts.json")["rows"]}


def events_of(run: RunFolder) -> list[dict[str, Any]]:
    with gzip.open(run.profile / "trace.json.gz", "rt") as file:
        return [event for event in json.load(file)["traceEvents"] if event.get("ph") == "X"]


@pytest.fixture(scope="module", params=list(KINDS))
def profiled(
    request: pytest.FixtureRequest, make_job: MakeJob, train_in: Train, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, TrainJob, RunFolder, CogVideoXTransformer3DModel]:
    """A profiled run per kind of training."""
    job = make_job(*SHORT, *PROFILED, *KINDS[request.param])
    folder = tmp_path_factory.mktemp("profiled") / "run"
    return request.param, job, RunFolder(folder), train_in(job, folder).transformer


def test_the_trace_reads_like_the_code(profiled) -> None:
    kind, _, run, _ = profiled
    names = {event["name"] for event in events_of(run) if event["cat"] == "user_annotation"}
    assert names >= {"data wait", "forward", "backward", "clip", "exchange", "optimizer", "logging", "between steps"}
    assert names >= {"transformer_blocks.0.attn1", "transformer_blocks.1.ff", "patch_embed", "norm_out", "proj_out"}
    assert ("transformer_blocks.0.attn1.to_q" in names) == (kind == "lora")


def test_the_parts_make_up_the_step_as_the_run_has_measured_it(profiled) -> None:
    kind, _, run, _ = profiled
    parts = parts_of(run)
    whole = parts.pop("step")
    assert sum(row["ms"] for row in parts.values()) == pytest.approx(whole["ms"], rel=0.001)
    measured = [line["step_seconds"] for line in read_metrics(run.metrics) if line["step"] in STEPS]
    outside = parts["logging"]["ms"] + parts["between steps"]["ms"]
    # On a busy machine, the process may lose a few milliseconds between the two clock readings.
    assert whole["ms"] - outside == pytest.approx(1e3 * sum(measured) / len(STEPS), rel=0.04, abs=15)
    for name in ("attention", "feed-forward", "norms and modulation", "embeddings"):
        assert min(parts[name]["forward_ms"], parts[name]["backward_ms"]) > 0, name
        assert sum(parts[name][phase] for phase in TIMES) == pytest.approx(parts[name]["ms"], abs=0.01)
    assert (parts["attention"]["recomputed_ms"] > 0) == (kind == "sft")
    assert ("adapter" in parts) == (kind == "lora")
    assert ("VAE encoder" in parts) == (kind == "lora"), "only where clips are encoded meanwhile"
    assert parts["idle"]["ms"] < 0.6 * whole["ms"]
    assert parts["idle"]["kernels"] == 0


def test_attention_and_feed_forward_have_the_operations_that_they_must(profiled, make_job: MakeJob) -> None:
    """Per layer: four width x width products in attention, and the equivalent of eight in the feed-forward layers."""
    kind, job, run, transformer = profiled
    config, parts = transformer.config, parts_of(run)
    bucket = load_dataset(job.data, job.cache_dir).clips[0].bucket
    frames, scale = (bucket.num_frames - 1) // 4 + 1, 2 ** (len(job.model.vae.block_out_channels) - 1)
    patch = scale * config.patch_size
    tokens = frames * (bucket.height // patch) * (bucket.width // patch) + config.max_text_seq_length
    width, layers = config.num_attention_heads * config.attention_head_dim, config.num_layers
    product = 2 * job.batch_size * tokens * width**2
    scores = 2 * job.batch_size * tokens**2 * width  # queries by keys, or scores by values
    forward = layers * (4 * product + 2 * scores)
    if kind == "lora":  # frozen base: gradients of inputs only, and none for the first layer's
        backward, times = layers * (4 * product + 5 * scores) - 3 * product, 1
    else:  # full fine-tuning, with recomputed blocks
        backward, times = layers * (8 * product + 5 * scores) + forward, job.gradient_accumulation
    assert parts["attention"]["gflop"] == pytest.approx(times * (forward + backward) / 1e9, rel=1e-5)
    passes = {"lora": 2, "sft": 4}[kind]
    assert parts["feed-forward"]["gflop"] == pytest.approx(times * passes * layers * 8 * product / 1e9, rel=1e-5)
    again = {"lora": 0, "sft": times * forward / 1e9}[kind]
    assert parts["attention"]["gflop_recomputed"] == pytest.approx(again, rel=1e-5)


def test_values_that_the_host_reads_are_counted(profiled) -> None:
    """On a CPU, AdamW reads the step count of each weight."""
    _, _, run, transformer = profiled
    assert parts_of(run)["optimizer"]["synchronisations"] == sum(p.requires_grad for p in transformer.parameters())


def test_it_trains_as_without(profiled, make_job: MakeJob, train_in: Train, tmp_path: Path) -> None:
    kind, _, run, transformer = profiled
    plain = train_in(make_job(*SHORT, *KINDS[kind]), tmp_path / "run").transformer
    losses = [[line["loss"] for line in read_metrics(one.metrics)] for one in (run, RunFolder(tmp_path / "run"))]
    assert losses[0] == losses[1]
    assert all((a == b).all() for a, b in zip(transformer.parameters(), plain.parameters(), strict=True))
    assert not RunFolder(tmp_path / "run").profile.exists()


def test_the_table_and_the_picture_are_on_the_page(profiled) -> None:
    _, _, run, _ = profiled
    assert (run.profile / "parts.txt").read_text().startswith("Mean of steps 3 to 4: ")
    assert (run.profile / "parts.png").read_bytes().startswith(b"\x89PNG")
    page = (run.path / "report" / "data.js").read_text()
    assert all(f"../profile/{name}" in page for name in ("parts.png", "parts.txt", "trace.json.gz"))


def test_a_resumed_run_counts_from_its_checkpoint(tmp_path: Path, shared_cache: Path, capsys) -> None:
    """A run stopped too early says so; with too few steps left, a run continues without a profile."""
    place = [f"run_dir={tmp_path / 'run'}", f"cache_dir={shared_cache}", "device=cpu", "resume=auto"]
    settings = [*place, *SHORT, "profile=true", "profile.skip=0", "profile.record=1"]
    with pytest.raises(SystemExit):
        train([*settings, "checkpoint.max_minutes=0.00001"])
    assert "the run ended before a step was profiled" in capsys.readouterr().out
    assert train(settings) == 0
    assert "\nStep 3: " in capsys.readouterr().out
    assert train([*settings, "steps=6"]) == 0
    assert "not profiling: profile=true needs 2 steps, the run has 1 left" in capsys.readouterr().out


def test_a_run_that_is_too_short_is_refused(in_tmp: Path, shared_cache: Path, capsys) -> None:
    assert train(["steps=6", "profile=true"]) == 2
    assert "3 steps, 7 in all, but steps=6; train for longer, or lower profile.skip" in capsys.readouterr().err
    place = [f"cache_dir={shared_cache}", "device=cpu", "run_dir=run"]
    assert train([*place, *SHORT[1:], "epochs=1", "profile=true"]) == 2
    assert "but epochs=1 are 4" in capsys.readouterr().err
    assert not list(in_tmp.glob("run/checkpoints/*"))
