"""What happens between training steps: held-out loss, checkpoints, videos."""

import math
from functools import partial
from importlib.metadata import version

from cogvx_exp.comparison.page import write_run_page
from cogvx_exp.config.schema import Validation
from cogvx_exp.data.identity import identity_of
from cogvx_exp.files import fingerprint
from cogvx_exp.model.device import device_name
from cogvx_exp.team import Team
from cogvx_exp.tracking.progress import console
from cogvx_exp.tracking.run_folder import Metrics
from cogvx_exp.training.context import Context
from cogvx_exp.training.loop import Action
from cogvx_exp.training.saving import CheckpointSaver

VERSIONS = ("torch", "diffusers", "peft", "accelerate")


class Actions:
    """The actions of one run.

    Args:
        run: all that belongs to it.
        saver: writes the checkpoints.
    """

    def __init__(self, run: Context, saver: CheckpointSaver):
        self._run, self._saver = run, saver
        self._held_out_losses: dict[int, float] = {}
        self._identity = identity_of(run.data.encoded.dataset) if run.team.is_first else None

    def between_steps(self) -> list[Action]:
        """Checkpoints come before videos, so that a crash while sampling loses nothing; and after the measure that
        says whether a checkpoint is the best.
        """
        job, training, actions = self._run.job, self._run.training, []
        validation = job.validation
        if training.held_out:
            actions.append(Action(self.measure, validation.loss_every))
        actions.append(Action(self.save, job.checkpoint.every))
        if self._run.data.validator and isinstance(validation, Validation):
            per_step = job.gradient_accumulation * self._run.team.world
            steps_per_epoch = math.ceil(training.stream.batches_per_epoch / per_step)
            epochs = validation.every_epochs
            every = epochs * steps_per_epoch if epochs else validation.every
            actions.append(Action(self.validate, every, at_end=False))  # then the export is sampled from
        if self._run.team.is_first:
            actions.append(Action(self.show, job.checkpoint.every))
        return actions

    def show(self, step: int) -> None:
        """Writes the run's page."""
        write_run_page(self._run.folder)

    def save(self, step: int) -> None:
        """Saves the state after a step."""
        job, training, team = self._run.job, self._run.training, self._run.team
        self._check_agreement(step)
        batches = training.batches_done(step, job.gradient_accumulation * team.world)
        epoch, position = divmod(batches, training.stream.batches_per_epoch)
        config = job.model_dump(mode="json")
        about = {
            "step": step,
            "batches": batches,
            "epoch": epoch,
            "batches_in_epoch": position,
            "processes": team.world,
            "held_out_loss": self._held_out_losses.get(step),
            "about": training.about,
            "dataset": self._identity,
            "config": config,
            "config_fingerprint": fingerprint(config),
            "versions": {name: version(name) for name in VERSIONS},
        }
        gathers = training.state.stepper.gathers
        take = partial(training.state.take, team if gathers else Team())
        if team.is_first:
            self._saver.wait_for_last()
        team.wait()  # here, where they may wait long: what comes next has the timeout of a step
        if team.is_first:
            self._saver.save(self._run.folder.checkpoint(step), take, about)
        elif gathers:
            take()

    def _check_agreement(self, step: int) -> None:
        """Makes sure that the processes still train one model, before it is saved.

        Those on GPUs of one kind must agree to the bit. Others may round differently.

        Raises:
            RuntimeError: their weights differ.
        """
        team, stepper = self._run.team, self._run.training.state.stepper
        if team.world == 1:
            return
        told = team.exchange([device_name(self._run.data.compute.device), stepper.fingerprint()])
        for rank, (name, weights) in enumerate(told):
            same = next(other for other, (its_name, _) in enumerate(told) if its_name == name)
            if weights != told[same][1]:
                raise RuntimeError(
                    f"the weights of processes {same} and {rank} differ after step {step}: their gradients were not "
                    "averaged. This is a fault of the program; no checkpoint was written"
                )

    def measure(self, step: int) -> None:
        """Measures the held-out loss."""
        training = self._run.training
        assert training.held_out
        with training.state.averaged():
            losses = training.held_out.measure(training.transformer, training.loss)
        self._held_out_losses[step] = losses["loss"]
        if self._run.team.is_first:
            with Metrics(self._run.folder.held_out, step - 1) as held_out:
                held_out.write(step=step, **losses)
        self._run.trackers.metrics({"step": step, **{f"held_out/{name}": loss for name, loss in losses.items()}})
        console.print(f"Held-out loss at step {step}: {losses['loss']:.4f}")

    def validate(self, step: int) -> None:
        """Samples the validation's videos."""
        self._run.memory.record("before_validation")
        with self._run.training.state.averaged():
            self._run.sample(self._run.training.transformer, step)
        self._run.memory.record("after_validation")
