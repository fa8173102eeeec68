"""The stepper of torch's FSDP2: weights, gradients and states are split over the processes."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.training.gathering import copy_for_first, for_first
from cogvx_exp.training.learned import Learned, load_learned
from cogvx_exp.training.stepper import MakeOptimizer, OptimizerState, Stepper


class FullySharded(Stepper):
    """FSDP2: each process has a part of every weight, gradient and state; a block is whole only while it computes.

    Adapters are small: each process has all of them, and their gradients are averaged. That leaves them float32 beside
    a base of another type, which one FSDP unit cannot hold.
    """

    gathers = True

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, make_optimizer: MakeOptimizer, accelerator: Accelerator
    ):
        frozen = [parameter for parameter in transformer.parameters() if not parameter.requires_grad]
        whole = set(trainable_parameters(transformer).values()) if frozen else set()
        for block in transformer.transformer_blocks:
            fully_shard(block, ignored_params=whole)
        fully_shard(transformer, ignored_params=whole)
        super().__init__(transformer, make_optimizer, accelerator)
        self._replicated = [parameter for parameter in transformer.parameters() if parameter in whole]

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged in the last backward pass of a step only."""
        if isinstance(self.transformer, FSDPModule):
            self.transformer.set_requires_gradient_sync(last)
        return nullcontext()

    def clip(self, max_norm: float | None) -> torch.Tensor:
        """Averages the adapter's gradients, then scales all down to `max_norm`; returns their norm before."""
        for parameter in self._replicated:
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
        parameters = list(trainable_parameters(self.transformer).values())
        return _whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, gathered on the host."""
        trained = trainable_parameters(self.transformer)
        return {name: for_first(_whole(weight.detach())) for name, weight in trained.items()}

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes over trained weights, each process its part."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.transformer).items():
                parameter.copy_(_part_of(weights[name].to(parameter.device), parameter))

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state, gathered on the host."""
        state: OptimizerState = self.optimizer.state_dict()
        return {
            "state": {
                number: _map(values, lambda value: for_first(_whole(value)))
                for number, values in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }

    def load_optimizer_state(self, learned: Learned) -> None:
        """Takes over what an optimizer of the same class has learned, each process its part; the settings stay."""
        parameters = trainable_parameters(self.transformer)
        parts = {
            name: _map(values, lambda value, like=parameters[name]: _part_of(value, like))
            for name, values in learned.states.items()
        }
        load_learned(self.optimizer, parameters, replace(learned, states=parts))

    def complete(self) -> CogVideoXTransformer3DModel:
        """The transformer with all weights, on the host of the first process."""
        if getattr(self.transformer, "peft_config", None):
            return self.transformer  # its adapter is complete in every process
        # One at a time: all of them at once would not fit the device that had to split them.
        weights = {name: for_first(_whole(value)) for name, value in self.transformer.state_dict().items()}
        return copy_for_first(self.transformer, weights)


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A tensor of which each process has a part, gathered; all call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def _part_of(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's part of a whole tensor, if `like` is one of parts and of the same shape."""
    if isinstance(like, DTensor) and value.shape == like.shape:
        return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
    return value


def _map(values: dict[str, Any], function: Any) -> dict[str, Any]:
    return {key: function(value) if isinstance(value, torch.Tensor) else value for key, value in values.items()}
