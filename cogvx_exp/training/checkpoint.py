"""What a checkpoint holds: written to and read from tensors and JSON, never pickle."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from cogvx_exp.errors import UserError
from cogvx_exp.files import read_json, write_json
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.team import Team
from cogvx_exp.tracking.run_folder import CHECKPOINT_FILE
from cogvx_exp.training.nested import put_tensors, take_tensors
from cogvx_exp.training.stepper import Stepper

WEIGHTS, OPTIMIZER, STATE = CHECKPOINT_FILE, "optimizer.safetensors", "state.json"


class TrainingState:
    """Everything that changes while training, besides the step."""

    def __init__(self, stepper: Stepper, lr_scheduler: LRScheduler, ema: EMAModel | None = None):
        self.stepper = stepper
        self.transformer = stepper.transformer
        self.lr_scheduler = lr_scheduler
        self.scaler = stepper.accelerator.scaler
        self.ema = ema

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trained weights are those to use: their running average, if there is one.

        A schedule-free optimizer averages by itself and swaps the weights in its own way.
        """
        parameters = list(trainable_parameters(self.transformer).values())
        optimizer = getattr(self.stepper.optimizer, "optimizer", self.stepper.optimizer)  # out of accelerate's wrapper
        averages_itself = hasattr(optimizer, "eval")
        if averages_itself:
            optimizer.eval()
        if self.ema:
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
        try:
            yield
        finally:
            if self.ema:
                self.ema.restore(parameters)
            if averages_itself:
                optimizer.train()

    def update_average(self) -> None:
        """Counts the weights of a new step into the running average."""
        if self.ema:
            self.ema.step(trainable_parameters(self.transformer).values())

    def take(self, team: Team) -> Callable[[Path], None]:
        """Copies the state to the host, and returns what writes the copy into an existing folder.

        Args:
            team: the processes that call it: all if the stepper gathers. What the first one returns is complete.

        Raises:
            UserError: a weight is not finite.
        """
        weights = self.stepper.weights()
        bad = next((name for name, weight in weights.items() if not torch.isfinite(weight).all()), None)
        bad = team.exchange(bad)[0]  # the others have no weights to look at
        if bad:
            raise UserError(f"{bad} has values that are not finite, so no checkpoint was written; lower optim.lr")
        assert weights, "something is trained"
        tensors: dict[str, torch.Tensor] = {}
        state = {
            "optimizer": take_tensors(self.stepper.optimizer_state(), tensors, "optimizer"),
            "lr_scheduler": take_tensors(self.lr_scheduler.state_dict(), tensors, "lr_scheduler"),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": take_tensors(self.ema.state_dict(), tensors, "ema") if self.ema else None,
        }

        def write(folder: Path) -> None:
            with _disk_errors():
                save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
                save_file(tensors, folder / OPTIMIZER)
            write_json(folder / STATE, state)

        return write

    def load(self, folder: Path) -> None:
        """Reads the state from a checkpoint.

        Raises:
            UserError: the checkpoint has other weights than the model.
        """
        weights = load_file(folder / WEIGHTS)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        if shapes != self.stepper.shapes():
            raise UserError(f"checkpoint {folder} was trained with another model or method; resume with its settings")
        self.stepper.load_weights(weights)
        tensors = load_file(folder / OPTIMIZER)
        state = read_json(folder / STATE)
        self.stepper.load_optimizer_state(put_tensors(state["optimizer"], tensors))
        self.lr_scheduler.load_state_dict(put_tensors(state["lr_scheduler"], tensors))
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            self.ema.load_state_dict(put_tensors(state["ema"], tensors))
            self.ema.to(device=self.transformer.device)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """safetensors reports a full disk as an error of its own."""
    try:
        yield
    except SafetensorError as error:
        raise OSError(str(error)) from None
