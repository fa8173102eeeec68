"""Records whole training steps with torch.profiler and writes their breakdown to the run's folder."""

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXEncoder3D
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function, schedule, supported_activities

from cogvx_exp.config.schema import Profile
from cogvx_exp.console.progress import console
from cogvx_exp.core.files import replacing_folder
from cogvx_exp.profiling.analysis.breakdown import OWN_RANGE, Breakdown, break_down
from cogvx_exp.profiling.analysis.trace import read_trace
from cogvx_exp.profiling.parts import RANGES, module_parts
from cogvx_exp.profiling.results import print_results, write_results

TRACE = "trace.json.gz"
RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class StepRecorder:
    """The profiler of a run, entered around the training loop.

    Modules are hooked only while it warms up and records.

    Args:
        settings: the configuration group `profile`.
        transformer: the model that is trained.
        folder: folder for the results.
        done: number of steps already done.
        peak_flops: peak FLOP/s of the device, if known.
    """

    def __init__(
        self,
        settings: Profile,
        transformer: CogVideoXTransformer3DModel,
        folder: Path,
        *,
        done: int,
        peak_flops: float | None,
    ):
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # keeps Kineto from logging to stderr when it starts and stops
        self._folder, self._device, self._peak = folder, transformer.device, peak_flops
        self._first_step, self._recorded = done + settings.skip + settings.warmup + 1, 0
        names = module_parts(transformer)
        self._parts = {**RANGES, **dict(names.values())}
        self._hooks = _ModuleRanges({module: name for module, (name, _) in names.items()})
        self._profile = profile(
            activities={ProfilerActivity.CPU, _activity_of(self._device)} & supported_activities(),
            schedule=schedule(wait=settings.skip, warmup=settings.warmup, active=settings.record, repeat=1),
            on_trace_ready=self._save,
            record_shapes=True,
            acc_events=True,
        )

    def __enter__(self) -> "StepRecorder":
        self._profile.start()
        self._hook()
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        self._hooks.remove()
        if kind is not None:
            self._recorded = 0  # steps of a failed run are incomplete
        elif not self._recorded:
            console.print("Note: the run ended before a step was profiled")
        self._profile.stop()

    def range(self, name: str) -> AbstractContextManager[None]:
        """The context of a named part of a step."""
        context: AbstractContextManager[None] = record_function(name)
        return context

    def end_step(self) -> None:
        """Moves on to the next step; after the last recorded one, writes the results."""
        action = self._profile.current_action
        self._recorded += action in RECORDING
        if self._device.type == "cuda" and action in (ProfilerAction.WARMUP, ProfilerAction.RECORD_AND_SAVE):
            with record_function(OWN_RANGE):  # aligns the recorded steps with the GPU's work
                torch.cuda.synchronize(self._device)
        # Between steps and not within: the profiler starts and stops recording here.
        self._profile.step()
        self._hook()

    def _hook(self) -> None:
        if self._profile.current_action is ProfilerAction.NONE:
            self._hooks.remove()
        else:
            self._hooks.install()

    def _save(self, recorded: Any) -> None:
        if not self._recorded:
            return
        try:
            with replacing_folder(self._folder) as tmp:
                recorded.export_chrome_trace(str(tmp / TRACE))
                breakdown = self._break_down(tmp / TRACE)
                write_results(breakdown, tmp)
        except OSError as error:  # a failed profile must not end the training
            console.print(f"Note: {self._folder}: {error.strerror}; no profile was written", soft_wrap=True)
            return
        if self._device.type == "cuda" and not breakdown.on_device:
            console.print("Note: no GPU kernels were recorded; the profile shows operators on the host instead")
        print_results(breakdown, self._folder)

    def _break_down(self, path: Path) -> Breakdown:
        return break_down(
            read_trace(path, self._recorded),
            self._parts,
            first_step=self._first_step,
            steps=self._recorded,
            peak_flops=self._peak,
        )


def _activity_of(device: torch.device) -> ProfilerActivity:
    return ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU


class _ModuleRanges:
    """Opens a range around the forward pass of each named module and of every VAE encoder.

    Args:
        names: names of the modules.
    """

    def __init__(self, names: dict[nn.Module, str]):
        self._names = names
        self._handles: list[Any] = []
        self._open = threading.local()  # autograd recomputes blocks in its own thread

    def install(self) -> None:
        """Hooks all modules, unless they already are."""
        if not self._handles:
            # `always_call`: checkpointing stops a recomputed block early by raising an exception, which must close the
            # range, too.
            after = register_module_forward_hook(self._leave, always_call=True)
            self._handles = [register_module_forward_pre_hook(self._enter), after]

    def remove(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _name(self, module: nn.Module) -> str | None:
        return "vae.encoder" if isinstance(module, CogVideoXEncoder3D) else self._names.get(module)

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        if name := self._name(module):
            around = record_function(name)
            # Not a `with` block: the range ends in another hook.
            around.__enter__()
            self._stack().append(around)

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._name(module):
            self._stack().pop().__exit__(None, None, None)

    def _stack(self) -> list[record_function]:
        stack: list[record_function] = self._open.__dict__.setdefault("ranges", [])
        return stack
