"""Settings of memory, trackers, checkpoints, pages and publishing arrive where they take effect."""

import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.config.schema.trackers import TensorBoard, Wandb
from cogvx_exp.config.typed import typed
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.estimate import command
from cogvx_exp.footage.review import review
from cogvx_exp.latents import inspect
from cogvx_exp.launch import preflight
from cogvx_exp.model import load
from cogvx_exp.model.build import build_transformer
from cogvx_exp.model.device import Compute
from cogvx_exp.model.offload import blocks
from cogvx_exp.profiling import recorder
from cogvx_exp.profiling.ranges import NoProfiler
from cogvx_exp.runs.run_folder import RunFolder
from cogvx_exp.sweep import gpus
from cogvx_exp.tracking import publish
from cogvx_exp.tracking.trackers import TensorBoardTracker, WandbTracker
from cogvx_exp.training import finish
from cogvx_exp.training.checkpoint import saver
from cogvx_exp.training.monitor import profiled
from tests.conftest import MakeJob
from tests.replaced import ReachedError, replaced

CPU = torch.device("cpu")


def prepare_job(*settings: str) -> PrepareJob:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return typed(compose("prepare", ["model=tiny-5b", "data=jsonl", "data.root=x", *settings]), PrepareJob)


def test_blocks_have_the_options_of_the_memory(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer = build_transformer(edit_job().model)
    streams = replaced(monkeypatch, blocks, "BlockStream")["BlockStream"]
    usual = ["memory.activations=keep", "memory.norms=float32", "memory.ff_chunks=1"]
    blocks.apply_memory_options(transformer, edit_job(*usual).memory, CPU)
    kinds = {type(module) for module in transformer.modules()}
    assert not kinds & {blocks.ModelTypeNorm, blocks.ChunkedFeedForward}
    assert (transformer.gradient_checkpointing, streams.called) == (False, False)
    options = ["memory.activations=selective", "memory.norms=model", "memory.ff_chunks=3", "memory.stream_blocks=true"]
    blocks.apply_memory_options(transformer, edit_job(*options).memory, CPU)
    kinds = {type(module) for module in transformer.modules()}
    assert kinds >= {blocks.ModelTypeNorm, blocks.ChunkedFeedForward}
    assert {block.ff.chunks for block in transformer.transformer_blocks} == {3}
    assert (transformer.gradient_checkpointing, streams.called) == (True, True)


@pytest.mark.parametrize("slicing", [True, False])
def test_the_vae_works_on_slices_or_tiles(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, slicing: bool) -> None:
    vae = replaced(monkeypatch, load, "_read_whole")["_read_whole"].return_value
    vae.parameters.return_value = []
    tiling = not slicing
    settings = [f"memory.vae_slicing={str(slicing).lower()}", f"memory.vae_tiling={str(tiling).lower()}"]
    load.load_vae(Path("pipeline"), Compute(CPU, torch.float32), edit_job(*settings).memory)
    assert (vae.enable_slicing.called, vae.enable_tiling.called) == (slicing, tiling)


def test_a_budget_is_compared_with_the_prediction(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, command, "refuse_if_too_large")
    mocks["refuse_if_too_large"].side_effect = ReachedError
    with pytest.raises(ReachedError):
        preflight.preflight(edit_job("memory.budget=1.5"), [], set())
    assert mocks["refuse_if_too_large"].call_args.args[3] == 1.5
    preflight.preflight(edit_job("memory.budget=1.5", "memory.preflight=false"), [], set())
    preflight.preflight(edit_job(), [], set())
    assert mocks["refuse_if_too_large"].call_count == 1


def test_wandb_gets_its_settings(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wandb: Any = ModuleType("wandb")
    wandb.init, wandb.Settings, wandb.Video = MagicMock(), MagicMock(), MagicMock()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    given: dict[str, Any] = {"project": "p", "entity": "e", "group": "g", "tags": ["t"], "mode": "offline"}
    for videos in (False, True):
        tracker = WandbTracker(edit_job("name=mine"), Wandb(**given, videos=videos), RunFolder(tmp_path))
        tracker.video(3, tmp_path / "a.mp4", "a circle")
        assert wandb.init.return_value.log.called == videos
    called = wandb.init.call_args.kwargs
    assert {name: called[name] for name in given} == given
    assert called["name"] == "mine"


def test_tensorboard_has_videos_if_asked_for(
    edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch.utils import tensorboard

    writer = replaced(monkeypatch, tensorboard, "SummaryWriter")["SummaryWriter"].return_value
    monkeypatch.setattr("cogvx_exp.tracking.trackers.spread_frames", lambda path, count: torch.zeros(1))
    for videos in (False, True):
        tracker = TensorBoardTracker(edit_job(), TensorBoard(videos=videos), RunFolder(tmp_path), 0)
        tracker.video(3, tmp_path / "a.mp4", "a circle")
        assert writer.add_images.called == videos


def test_checkpoints_are_kept_and_written_as_set(
    edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mocks = replaced(monkeypatch, saver, "write_checkpoint", "prune_checkpoints")
    settings = ["checkpoint.keep=7"]
    may_end = threading.Event()
    mocks["write_checkpoint"].side_effect = lambda *arguments: may_end.wait(20)
    behind = saver.CheckpointSaver(tmp_path, edit_job(*settings, "checkpoint.background=true").checkpoint)
    behind.save(tmp_path / "1", MagicMock(), {"step": 1})
    assert behind.written == 0
    may_end.set()
    mocks["write_checkpoint"].side_effect = lambda *arguments: time.sleep(0.2)
    at_once = saver.CheckpointSaver(tmp_path, edit_job(*settings, "checkpoint.background=false").checkpoint)
    at_once.save(tmp_path / "2", MagicMock(), {"step": 2})
    assert at_once.written == 1
    mocks["prune_checkpoints"].assert_called_with(tmp_path, 7, None)
    assert behind.finish() == at_once.finish() == ""


def test_a_job_of_a_sweep_gets_as_many_gpus_as_set(edit_job: MakeJob, tmp_path: Path) -> None:
    sweep = edit_job("sweep.gpus=[3,4,5]", "sweep.gpus_per_job=2").sweep
    with ExitStack() as held, ExitStack() as others:
        assert gpus._take(tmp_path, sweep, held) == [3, 4]
        assert gpus._take(tmp_path, sweep, others) == [], "one is not enough"


@pytest.mark.parametrize("merge", [True, False])
def test_an_adapter_is_merged_if_asked_to(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, merge: bool) -> None:
    mocks = replaced(monkeypatch, finish, "replacing_folder", "export", "export_merged", "load_trained")
    replaced(monkeypatch, finish, "load_transformer", "plain_disk_errors")
    finish.export_result(MagicMock(job=edit_job(f"export.merge={str(merge).lower()}"), processes=ProcessGroup()))
    assert mocks["export_merged"].called == merge


def test_the_result_is_uploaded_as_set(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, publish, "_gather")
    client = MagicMock()
    settings = ["hub.push=true", "hub.repo=me/style", "hub.private=true"]
    publish.publish(edit_job(*settings, "hub.dry_run=true"), MagicMock(), {}, client)
    assert not client.create_repo.called
    publish.publish(edit_job(*settings), MagicMock(), {}, client)
    client.create_repo.assert_called_once_with("me/style", private=True, exist_ok=True)
    assert client.upload_folder.call_args.kwargs["repo_id"] == "me/style"


@pytest.mark.parametrize(
    ("settings", "published"), [([], False), (["hub.push=true"], True), (["hub.dry_run=true"], True)]
)
def test_a_run_is_published_if_asked_to(
    edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, settings: list[str], published: bool
) -> None:
    names = (
        "read_metrics",
        "_summary",
        "write_json",
        "write_status",
        "draw_strip",
        "write_preview",
        "_print_result",
        "_best",
        "publish",
    )
    mocks = replaced(monkeypatch, finish, *names, "plot_loss")
    mocks["_summary"].return_value = mocks["_best"].return_value = {}
    finish.finish(MagicMock(job=edit_job(*settings)), Path("export"), 1.0, "")
    assert mocks["publish"].called == published


def test_the_steps_that_are_set_are_profiled(edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    mocks = replaced(monkeypatch, recorder, "schedule", "profile", "module_parts", "_ModuleRanges")
    mocks["module_parts"].return_value = {}
    settings = ["profile.enabled=true", "profile.skip=2", "profile.warmup=4", "profile.record=5"]
    job = edit_job(*settings)
    recorder.StepRecorder(job.profile, SimpleNamespace(device=CPU), Path("run"), done=0, peak_flops=None)  # type: ignore[arg-type]
    mocks["schedule"].assert_called_once_with(wait=2, warmup=4, active=5, repeat=1)
    steps: Any = MagicMock(steps=100, first_step=0)
    monkeypatch.setattr(recorder, "StepRecorder", MagicMock(side_effect=ReachedError))
    with pytest.raises(ReachedError), profiled.profiled(MagicMock(job=job, training=steps, processes=ProcessGroup())):
        pass
    with profiled.profiled(MagicMock(job=edit_job(), training=steps, processes=ProcessGroup())) as none:
        assert isinstance(none, NoProfiler)


def test_pages_show_the_rows_that_are_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mocks = replaced(monkeypatch, review, "read_manifest", "clip_rows", "strips", "write_text", "_card", "Environment")
    mocks["read_manifest"].return_value = [{}] * 9
    mocks["clip_rows"].return_value, mocks["strips"].return_value = ({}, []), []
    mocks["_card"].return_value = {}
    review.write_review(prepare_job("mode=review", "review.first=3", "review.clips=2", "review.output_dir=there"))
    assert [call.args[0] for call in mocks["_card"].call_args_list] == [2, 3]
    assert mocks["write_text"].call_args.args[0] == Path("there/index.html")
    assert mocks["clip_rows"].call_args.args[1] == [index in (2, 3) for index in range(9)]

    names = ("_token_counts", "_figures", "_buckets", "_cards", "_scores", "_table", "print_issues", "write_text")
    mocks = replaced(monkeypatch, inspect, *names, "Environment")
    mocks["_token_counts"].return_value, mocks["_figures"].return_value = ({}, ""), []
    mocks["_buckets"].return_value = []
    clips = [MagicMock(latents=None) for _ in range(5)]
    job = prepare_job("mode=inspect", "inspect.clips=2", "inspect.output_dir=there")
    inspect.inspect_dataset(MagicMock(clips=clips, held_out=[], issues=[]), job, MagicMock())
    assert mocks["_cards"].call_args.args[0] == clips[:2]
    assert mocks["write_text"].call_args.args[0] == Path("there/index.html")
