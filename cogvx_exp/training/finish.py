"""The end of a run: export, final videos, summary."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.console.progress import console
from cogvx_exp.core.disk import plain_disk_errors
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import replacing_folder, write_json
from cogvx_exp.evaluation.generation import Recipe
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_trained, load_transformer, load_whole
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.offload.module import free_weights
from cogvx_exp.runs.best import BEST, best_by
from cogvx_exp.runs.checkpoint_folder import prune_checkpoints
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, step_of, write_status
from cogvx_exp.tracking.pictures.loss import plot_loss
from cogvx_exp.tracking.pictures.preview import PREVIEW, write_preview
from cogvx_exp.tracking.pictures.strip import draw_strip
from cogvx_exp.tracking.publish import publish
from cogvx_exp.training.context import Context
from cogvx_exp.training.export import export, export_merged
from cogvx_exp.training.model import load_base
from cogvx_exp.training.monitor.memory import MemoryLog


def export_result(run: Context) -> Path:
    """Writes the export."""
    job, compute, training = run.job, run.data.compute, run.training
    exported = ""
    with training.state.ema_weights():
        complete = training.state.strategy.full_model()
        if run.processes.is_main_process:
            with replacing_folder(run.folder.export) as tmp, plain_disk_errors(run.folder.export):
                written = export(complete, job.method, tmp, compute.dtype, training.about)
            exported = str(run.folder.export / written.relative_to(tmp))
    # Also a barrier: the other processes read the export next.
    exported = run.processes.all_gather(exported)[0]
    if job.export.merge and run.processes.is_main_process:
        # Merged on the host, because the GPU still holds the trained model.
        host = Compute(torch.device("cpu"), compute.dtype)
        base = load_transformer(run.data.pipeline, host)
        with plain_disk_errors(run.folder.export):
            export_merged(load_trained(base, Path(exported), host), run.folder.export, compute.dtype)
    return Path(exported)


def sample_from_export(run: Context, exported: Path) -> CogVideoXTransformer3DModel:
    """Samples the final videos from the export, which is returned; the model in memory is freed."""
    job, training, compute = run.job, run.training, run.data.compute
    # By freeing storages: references to the model (optimizer, hooks, closures) would keep `del` from doing anything.
    free_weights(training.transformer, compute.device)
    run.memory.record("export")  # ends the previous phase, whose memory does not count in the next one
    # A full transformer needs no base; both would not fit where one was trained.
    transformer = (
        load_whole(exported, compute)
        if exported.is_dir()
        else load_trained(load_base(job, run.data.context), exported, compute)
    )
    apply_memory_options(transformer, job.memory, compute.device)
    set_attention(transformer, job.attention)
    recipe = Recipe(job.model, [exported], [1.0], [1.0])
    run.sample(transformer, training.steps, **recipe.about())
    return transformer


def finish(run: Context, exported: Path, seconds: float, unsaved: str) -> dict[str, Any]:
    """Writes the summary and prints the result.

    Raises:
        UserError: the last checkpoint could not be written (`unsaved`); everything else was.
    """
    job, folder, training = run.job, run.folder, run.training
    lines = read_metrics(folder.metrics)
    if lines:  # otherwise the run only exported a checkpoint
        plot_loss(lines, folder.path / "loss.png", job.name)
    summary = _summary(job, lines, run.memory, exported, seconds)
    summary |= {"held_out": read_metrics(folder.held_out)[-1]} if training.held_out else {}
    if scores := read_metrics(folder.scores) if run.data.validator else []:
        summary["scores"] = {name: value for name, value in scores[-1].items() if name != "step"}
    summary["objective"] = job.sweep.objective
    # With a full disk, nothing is removed: the older checkpoints are all there is.
    summary |= {} if unsaved else _best(run)
    summary["processes"] = run.processes.world_size
    summary["checkpoint_seconds"] = {name: round(value, 3) for name, value in training.seconds_for_checkpoints.items()}
    summary["clips"] = run.data.encoded.dataset.describe()
    # Before the status: whoever sees "finished" finds the summary.
    write_json(folder.path / "summary.json", summary)
    run.trackers.finish()
    if unsaved:
        raise UserError(f"{unsaved}. The run is finished, and its result is in {exported}")
    write_status(folder, "finished", step=training.steps)
    draw_strip(folder)
    write_preview(folder)
    _print_result(folder, summary)
    if job.hub.push or job.hub.dry_run:
        gathered = publish(job, folder, training.about)
        done = "Would be pushed" if job.hub.dry_run else f"Pushed to {job.hub.repo}"
        console.result(f"{done}: {gathered}")
    return summary


def _best(run: Context) -> dict[str, Any]:
    """The best checkpoint, now that the last videos are scored; empty if there is none."""
    job, best, path = run.job, best_by(run.job), None
    with suppress(OSError):
        path = prune_checkpoints(run.folder.checkpoints, job.checkpoint.keep, best)
    if best is None or path is None:
        return {}
    return {"best_checkpoint": {"step": step_of(path), "by": best.by, "value": best.values([path])[path]}}


def _summary(
    job: TrainJob, lines: list[dict[str, Any]], memory: MemoryLog, exported: Path, seconds: float
) -> dict[str, Any]:
    # A tenth of the run: a single step's loss depends on its timesteps.
    tail = lines[-max(len(lines) // 10, 1) :]
    return {
        "name": job.name,
        "status": "finished",
        "steps": lines[-1]["step"] if lines else 0,
        "loss_last_tenth": sum(line["loss"] for line in tail) / len(tail) if tail else None,
        "seconds": round(seconds, 1),
        # The median: the first steps compile and allocate, and some wait for a checkpoint.
        "seconds_per_step": round(float(np.median([line["step_seconds"] for line in lines])), 4) if lines else 0.0,
        "memory": memory.phases,
        "memory_figures": memory.figures(),
        "export": str(exported),
    }


def _print_result(folder: RunFolder, summary: dict[str, Any]) -> None:
    if console.only_results:
        console.result(f"Done in {summary['seconds']:.0f} s: {folder.path}")
        return
    console.print(f"\nDone in {summary['seconds']:.0f} s, {summary['seconds_per_step']:.2f} s per step")
    figures = "  ".join(f"{name.replace('_', ' ')} {size:.2f}" for name, size in summary["memory_figures"].items())
    console.print(f"Peak memory, GiB:  {figures}", soft_wrap=True)
    results = {
        "page": folder.path / "report" / "index.html",
        "loss": folder.path / "loss.png",
        "before/after": folder.path / "videos.png",
        "animated": folder.path / PREVIEW,
        "videos": folder.path / "validation",
        "checkpoints": folder.checkpoints,
        "best": folder.checkpoints / BEST,
        "export": Path(summary["export"]),
        "summary": folder.path / "summary.json",
    }
    for label, path in results.items():
        if path.exists():
            console.print(f"  {label:<12} {path}", soft_wrap=True)
    console.print(f"To sample from it:  python -m cogvx_exp.generate generate.adapter={folder.path}", soft_wrap=True)
