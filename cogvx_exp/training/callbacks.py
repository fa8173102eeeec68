"""Callbacks between training steps: held-out loss, checkpoints, videos."""

import math
from functools import partial
from importlib.metadata import version

from cogvx_exp.config.rules.scores import goals
from cogvx_exp.config.schema import Validation
from cogvx_exp.console.progress import console
from cogvx_exp.core.files import fingerprint
from cogvx_exp.data.identity import identity_of
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.model.device import device_name
from cogvx_exp.reporting.page import write_run_page
from cogvx_exp.runs.metrics import Metrics
from cogvx_exp.training.checkpoint.saver import CheckpointSaver
from cogvx_exp.training.context import Context
from cogvx_exp.training.loop import Callback

VERSIONS = ("torch", "diffusers", "peft", "accelerate")


class Callbacks:
    """The callbacks of one run.

    Args:
        run: the run.
        saver: writes the checkpoints.
    """

    def __init__(self, run: Context, saver: CheckpointSaver):
        self._run, self._saver = run, saver
        self._held_out_losses: dict[int, float] = {}
        self._by_score = "checkpoint.keep_best" in goals(run.job)
        self._saved = run.training.first_step
        # Once: it reads the rows of all clips, and only the process that writes manifests needs it.
        self._identity = identity_of(run.data.encoded.dataset) if run.processes.is_main_process else None

    def between_steps(self) -> list[Callback]:
        """The callbacks in order: the held-out loss decides whether a checkpoint is the best, so it comes first; videos
        come after the checkpoint, so that a crash while sampling loses nothing.
        """
        job, training, callbacks = self._run.job, self._run.training, []
        validation = job.validation
        if training.held_out:
            # Also at the end: the last checkpoint may be the best.
            callbacks.append(Callback(self.measure, validation.loss_every))
        # For all processes, also where only one writes: gathering a sharded state is a collective.
        callbacks.append(Callback(self.save, job.checkpoint.every))
        if self._run.data.validator and isinstance(validation, Validation):
            per_step = job.gradient_accumulation * self._run.processes.world_size
            # Rounded up: an epoch may end in the middle of a step.
            steps_per_epoch = math.ceil(training.stream.batches_per_epoch / per_step)
            epochs = validation.every_epochs
            every = epochs * steps_per_epoch if epochs else validation.every
            if self._by_score:
                callbacks.append(Callback(self.save_once, every, at_end=False))
            callbacks.append(Callback(self.validate, every, at_end=False))  # at the end, the export is sampled
        # Last, so that the page shows the videos and checkpoints of this step.
        if self._run.processes.is_main_process:
            callbacks.append(Callback(self.show, job.checkpoint.every))
        return callbacks

    def show(self, step: int) -> None:
        """Writes the run's page."""
        write_run_page(self._run.folder)

    def save_once(self, step: int) -> None:
        """Saves the state after a step, unless it was saved already: a validation's score belongs to a checkpoint."""
        if self._saved != step:
            self.save(step)

    def save(self, step: int) -> None:
        """Saves the state after a step."""
        self._saved = step
        job, training, processes = self._run.job, self._run.training, self._run.processes
        self._check_agreement(step)
        batches = training.batches_done(step, job.gradient_accumulation * processes.world_size)
        epoch, position = divmod(batches, training.stream.batches_per_epoch)
        config = job.model_dump(mode="json")
        about = {
            "step": step,
            "batches": batches,
            "epoch": epoch,
            "batches_in_epoch": position,
            "processes": processes.world_size,
            "held_out_loss": self._held_out_losses.get(step),
            "about": training.about,
            "dataset": self._identity,
            "config": config,
            "config_fingerprint": fingerprint(config),
            "versions": {name: version(name) for name in VERSIONS},
        }
        gathers = training.state.strategy.gathers
        # Without sharding only the first process copies, so it must not wait for the others in there.
        take = partial(training.state.take, processes if gathers else ProcessGroup())
        if processes.is_main_process:
            # Before the barrier: writing may take longer than the timeout that the next collectives have.
            self._saver.wait_for_last()
        processes.barrier()  # with the long timeout: the following collectives have the timeout of a step
        if processes.is_main_process:
            self._saver.save(self._run.folder.checkpoint(step), take, about)
        elif gathers:
            take()

    def _check_agreement(self, step: int) -> None:
        """Checks that all processes still have the same weights before they are saved.

        On identical GPUs weights must agree bit for bit. Different GPUs may round differently.

        Raises:
            RuntimeError: their weights differ.
        """
        processes, strategy = self._run.processes, self._run.training.state.strategy
        if processes.world_size == 1:
            return
        # A sum of bits per weight instead of the weights: a few KiB for any model.
        gathered = processes.all_gather([device_name(self._run.data.compute.device), strategy.fingerprint()])
        for rank, (name, weights) in enumerate(gathered):
            # Compared within each kind of GPU: different ones may round differently.
            same = next(other for other, (its_name, _) in enumerate(gathered) if its_name == name)
            if weights != gathered[same][1]:
                raise RuntimeError(
                    f"the weights of processes {same} and {rank} differ after step {step}: their gradients were not "
                    "averaged. This is a bug; no checkpoint was written"
                )

    def measure(self, step: int) -> None:
        """Measures the held-out loss."""
        training = self._run.training
        assert training.held_out
        # Measured with the weights that would be exported.
        with training.state.ema_weights():
            losses = training.held_out.measure(training.transformer)
        self._held_out_losses[step] = losses["loss"]
        if self._run.processes.is_main_process:
            # `step - 1`: a resumed run that repeats this step replaces its line.
            with Metrics(self._run.folder.held_out, step - 1) as held_out:
                held_out.write(step=step, **losses)
        self._run.trackers.metrics({"step": step, **{f"held_out/{name}": loss for name, loss in losses.items()}})
        console.print(f"Held-out loss at step {step}: {losses['loss']:.4f}")

    def validate(self, step: int) -> None:
        """Samples the validation videos."""
        self._run.memory.record("before_validation")
        with self._run.training.state.ema_weights():
            self._run.sample(self._run.training.transformer, step)
        if self._by_score and self._run.processes.is_main_process:
            self._saver.choose_best()
        self._run.memory.record("after_validation")
