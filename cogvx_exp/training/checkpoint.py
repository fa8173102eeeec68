"""What a checkpoint holds: written to and read from tensors and JSON, never pickle."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from torch.optim.lr_scheduler import LRScheduler

from cogvx_exp.errors import UserError
from cogvx_exp.files import read_json, write_json
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.training.nested import put_tensors, take_tensors

WEIGHTS, OPTIMIZER, STATE = "trainable.safetensors", "optimizer.safetensors", "state.json"


class TrainingState:
    """Everything that changes while training, besides the step."""

    def __init__(
        self,
        transformer: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        lr_scheduler: LRScheduler,
        scaler: Any = None,
        ema: EMAModel | None = None,
    ):
        self.transformer = transformer
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.scaler = scaler
        self.ema = ema

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the trained weights are those to use: their running average, if there is one.

        A schedule-free optimizer averages by itself and swaps the weights in its own way.
        """
        parameters = list(trainable_parameters(self.transformer).values())
        averages_itself = hasattr(self.optimizer, "eval") and hasattr(self._inner, "eval")
        if averages_itself:
            self._inner.eval()
        if self.ema:
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
        try:
            yield
        finally:
            if self.ema:
                self.ema.restore(parameters)
            if averages_itself:
                self._inner.train()

    @property
    def _inner(self) -> Any:
        """The optimizer itself, out of accelerate's wrapper."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def update_average(self) -> None:
        """Counts the weights of a new step into the running average."""
        if self.ema:
            self.ema.step(trainable_parameters(self.transformer).values())

    def save(self, folder: Path) -> None:
        """Writes the state into an existing folder.

        Raises:
            UserError: a weight is not finite.
        """
        weights = {name: parameter.detach().cpu() for name, parameter in trainable_parameters(self.transformer).items()}
        for name, weight in weights.items():
            if not torch.isfinite(weight).all():
                raise UserError(f"{name} has values that are not finite, so no checkpoint was written; lower optim.lr")
        tensors: dict[str, torch.Tensor] = {}
        state = {
            "optimizer": take_tensors(self.optimizer.state_dict(), tensors, "optimizer"),
            "lr_scheduler": take_tensors(self.lr_scheduler.state_dict(), tensors, "lr_scheduler"),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "ema": take_tensors(self.ema.state_dict(), tensors, "ema") if self.ema else None,
        }
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
        save_file(tensors, folder / OPTIMIZER)
        write_json(folder / STATE, state)

    def load(self, folder: Path) -> None:
        """Reads the state from a checkpoint.

        Raises:
            UserError: the checkpoint has other weights than the model.
        """
        parameters = trainable_parameters(self.transformer)
        weights = load_file(folder / WEIGHTS)
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        if shapes != {name: tuple(parameter.shape) for name, parameter in parameters.items()}:
            raise UserError(f"checkpoint {folder} was trained with another model or method; resume with its settings")
        with torch.no_grad():
            for name, weight in weights.items():
                parameters[name].copy_(weight)
        tensors = load_file(folder / OPTIMIZER)
        state = read_json(folder / STATE)
        self.optimizer.load_state_dict(put_tensors(state["optimizer"], tensors))
        self.lr_scheduler.load_state_dict(put_tensors(state["lr_scheduler"], tensors))
        if self.scaler and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        if self.ema and state["ema"]:
            self.ema.load_state_dict(put_tensors(state["ema"], tensors))
            self.ema.to(device=next(iter(parameters.values())).device)
