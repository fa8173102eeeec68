"""The state in a checkpoint, stored as tensors and JSON, never as pickle."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from cogvx_exp.config.schema import Optim
from cogvx_exp.core.disk import plain_disk_errors
from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import read_json, write_json
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.optim.flatten import flatten_state, unflatten_state
from cogvx_exp.optim.state import NOTHING, OptimizerStates, read_learned, states_fit
from cogvx_exp.runs.checkpoint_folder import CheckpointFolder
from cogvx_exp.runs.run_folder import CHECKPOINT_FILE
from cogvx_exp.strategies.ema import Ema
from cogvx_exp.strategies.single import Strategy

logger = logging.getLogger(__name__)

WEIGHTS, OPTIMIZER, STATE = CHECKPOINT_FILE, "optimizer.safetensors", "state.json"


class TrainingState:
    """Everything that changes during training, except the step.

    Args:
        strategy: the model and its optimizer.
        optim: the optimizer's settings.
        schedule: builds the learning-rate schedule, given the number of completed steps.
        ema: the exponential moving average of the weights.
    """

    def __init__(
        self, strategy: Strategy, optim: Optim, schedule: Callable[[int], LRScheduler], ema: Ema | None = None
    ):
        self.strategy = strategy
        self.transformer = strategy.transformer
        self.optim = optim
        self.schedule = schedule
        self.lr_scheduler = schedule(0)
        self.scaler = strategy.accelerator.scaler
        self.ema = ema

    @contextmanager
    def ema_weights(self) -> Iterator[None]:
        """Uses the EMA weights inside the block, if there are any.

        Schedule-free optimizers have their own average and swap the weights themselves.
        """
        optimizer = getattr(
            self.strategy.optimizer, "optimizer", self.strategy.optimizer
        )  # unwrap accelerate's wrapper
        # torch's optimizers have no such method; those of the schedule-free kind do.
        averages_itself = hasattr(optimizer, "eval")
        if averages_itself:
            optimizer.eval()
        try:
            with self.ema.applied() if self.ema else nullcontext():
                yield
        finally:
            if averages_itself:
                optimizer.train()

    def free(self) -> None:
        """Frees the optimizer's states and the EMA; no step may follow."""
        self.strategy.forget_optimizer_state()
        self.ema = None

    def update_ema(self) -> None:
        """Updates the EMA with the weights of a step."""
        if self.ema:
            self.ema.update()

    def take(self, processes: ProcessGroup) -> Callable[[Path], None]:
        """Copies the state to the host, and returns a function that writes the copy into an existing folder.

        The copy is made in the training thread, because the next step changes the tensors while a thread writes them.

        Args:
            processes: the calling processes: all if the strategy gathers, in which case the main process gets the
            state.

        Raises:
            UserError: a weight is not finite.
        """
        weights = self.strategy.weights()
        # On the host copy, so that the check does not need memory on a full device.
        bad = next((name for name, weight in weights.items() if not torch.isfinite(weight).all()), None)
        bad = processes.all_gather(bad)[0]  # only the main process has the weights
        if bad:
            raise UserError(f"{bad} has non-finite values, so no checkpoint was written; lower optim.lr")
        assert weights, "something is trained"
        tensors: dict[str, torch.Tensor] = {}
        state = {
            "optimizer": flatten_state(self.strategy.optimizer_state(), tensors, "optimizer"),
            "lr_scheduler": flatten_state(self.lr_scheduler.state_dict(), tensors, "lr_scheduler"),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": flatten_state(self.ema.state(), tensors, "ema") if self.ema else None,
        }

        def write(folder: Path) -> None:
            with plain_disk_errors(folder):
                # safetensors only stores contiguous tensors.
                save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
                save_file(tensors, folder / OPTIMIZER)
            write_json(folder / STATE, state)

        return write

    def load(self, checkpoint: CheckpointFolder) -> list[str]:
        """Loads the learned state from a checkpoint; current settings are kept.

        Returns:
            Notes about state that could not be carried over.

        Raises:
            UserError: the checkpoint has other weights than the model.
        """
        folder = checkpoint.path
        # Read by every process, each of which takes its shard.
        weights = load_file(folder / WEIGHTS)
        logger.info("taking over %d weights and the optimizer's state from %s", len(weights), folder)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        if shapes != self.strategy.shapes():
            raise UserError(f"checkpoint {folder} was trained with another model or method; use its settings to resume")
        self.strategy.load_weights(weights)
        tensors = load_file(folder / OPTIMIZER)
        state = read_json(folder / STATE)
        learned, notes = self._carried_over(unflatten_state(state["optimizer"], tensors), checkpoint)
        self.strategy.load_optimizer_state(learned)
        # Built anew and not loaded: the schedule's shape is a setting, of which the present one counts.
        self.lr_scheduler = self.schedule(checkpoint.step)
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        average = unflatten_state(state["ema"], tensors) if state["ema"] else None
        if self.ema:
            return notes + self.ema.load(average)
        return notes + (["ema_decay=null: the EMA weights are dropped"] if average else [])

    def _carried_over(self, state: dict[str, Any], checkpoint: CheckpointFolder) -> tuple[OptimizerStates, list[str]]:
        """The part of the checkpoint's optimizer state that this optimizer can load."""
        try:
            before = Optim.model_validate(checkpoint.manifest["config"]["optim"])
        except ValidationError:  # from a version with other settings
            before = self.optim
        fresh = "the optimizer starts with a new state"
        if before.target != self.optim.target:
            return NOTHING, [f"optim.target: {before.target} -> {self.optim.target}: {fresh}"]
        shapes, like = self.strategy.shapes(), next(iter(trainable_parameters(self.transformer).values()))
        try:
            learned = read_learned(state, shapes, before)
        except (KeyError, ValueError):
            return NOTHING, [f"the optimizer state in {checkpoint.path} does not belong to {before.target}: {fresh}"]
        if not states_fit(learned, shapes, before, self.optim, like):
            return NOTHING, [f"with these settings of optim, {before.target} keeps different states: {fresh}"]
        return learned, []
