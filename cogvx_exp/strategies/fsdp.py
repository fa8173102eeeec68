"""The strategy of torch's FSDP2: weights, gradients and states are split over the processes."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cogvx_exp.core.randomness import keyed_seed
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.optim.state import OptimizerStates
from cogvx_exp.strategies.gathering import copy_for_main_process, for_main_process
from cogvx_exp.strategies.shards import check_even, part_of, whole
from cogvx_exp.strategies.single import MakeOptimizer, OptimizerState, Strategy


class FullySharded(Strategy):
    """FSDP2: each process has a part of every weight, gradient and state; a block is whole only while it computes.

    Adapters are small: each process has all of them, and their gradients are averaged. That leaves them float32 beside
    a base of another type, which one FSDP unit cannot hold.

    Args:
        transformer: the trainable model on the host. It is split block by block, so that no more than one whole block
            is on the device.
        make_optimizer: builds the optimizer of the trained weights or, if all weights are trained, of their parts.
        accelerator: for the device and the type of the computation.
        dtype: type of what is trained.
    """

    gathers = True

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        make_optimizer: MakeOptimizer,
        accelerator: Accelerator,
        dtype: torch.dtype,
    ):
        device = accelerator.device
        frozen = any(not parameter.requires_grad for parameter in transformer.parameters())
        replicated = set(trainable_parameters(transformer).values()) if frozen else set()
        how: dict[str, Any] = {
            # By default it is that of the accelerator, also where the job asks for the CPU.
            "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
            "mp_policy": MixedPrecisionPolicy() if frozen else _mixed_precision(accelerator),
            "ignored_params": replicated,
            # Also of what is outside of the blocks, which by default stays whole after a forward pass without a
            # backward pass: the next step would compute with the weights that videos were sampled with.
            "reshard_after_forward": True,
        }
        for part in (*transformer.transformer_blocks, transformer):
            for parameter in part.parameters():
                if parameter.requires_grad and not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.to(device, dtype)
            fully_shard(part, **how)  # moves the others to the device
        super().__init__(transformer, make_optimizer, accelerator)
        check_even(self.optimizer.optimizer)  # out of accelerate's wrapper
        self._replicated = [parameter for parameter in transformer.parameters() if parameter in replicated]

    def clip(self, max_norm: float | None) -> torch.Tensor:
        """Averages the adapter's gradients, then scales all down to `max_norm`; returns their norm before."""
        if self._replicated:
            _average_gradients(self._replicated)
        parameters = list(trainable_parameters(self.transformer).values())
        return whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))

    def rounding_seed(self, seed: int, step: int) -> int:
        """Processes with parts of the weights draw for themselves: else values of different parts round together."""
        if self._replicated:
            return super().rounding_seed(seed, step)
        return keyed_seed(seed, step, "rounding", dist.get_rank())

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, gathered on the host."""
        trained = trainable_parameters(self.transformer)
        return {name: for_main_process(whole(weight.detach())) for name, weight in trained.items()}

    def gathered(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Whole values, on the host of the first process."""
        return [for_main_process(whole(value)) for value in values]

    def placed(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This process's parts of a value of each trained weight."""
        trained = trainable_parameters(self.transformer).values()
        return [part_of(value.to(like.device), like) for value, like in zip(values, trained, strict=True)]

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes over trained weights, each process its part."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.transformer).items():
                parameter.copy_(part_of(weights[name].to(parameter.device), parameter))

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state, gathered on the host."""
        state: OptimizerState = self.optimizer.state_dict()
        return {
            "state": {
                number: _map(values, lambda value: for_main_process(whole(value)))
                for number, values in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }

    def load_optimizer_state(self, learned: OptimizerStates) -> None:
        """Takes over what an optimizer of the same class has learned, each process its part; the settings stay."""
        parameters = trainable_parameters(self.transformer)
        parts = {name: _map(values, partial(part_of, like=parameters[name])) for name, values in learned.states.items()}
        super().load_optimizer_state(replace(learned, states=parts))

    def full_model(self) -> CogVideoXTransformer3DModel:
        """The transformer with all weights, on the host of the first process."""
        if getattr(self.transformer, "peft_config", None):
            return self.transformer  # its adapter is complete in every process
        # One at a time: all of them at once would not fit the device that had to split them.
        weights = {name: for_main_process(whole(value)) for name, value in self.transformer.state_dict().items()}
        return copy_for_main_process(self.transformer, weights)


def _mixed_precision(accelerator: Accelerator) -> MixedPrecisionPolicy:
    """Blocks are gathered in the type they compute in, and gradients are averaged in float32.

    Inputs stay as they are, for autocast: FSDP would round the rotary positions, too.
    """
    if accelerator.mixed_precision != "bf16":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Averages the gradients of all processes in one message: a LoRA of a 5b has 336 of them, of one type."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters)
    together = _flatten_dense_tensors(gradients)
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for parameter, gradient in zip(parameters, _unflatten_dense_tensors(together, gradients), strict=True):
        parameter.grad = gradient


def _map(values: dict[str, Any], function: Any) -> dict[str, Any]:
    return {key: function(value) if isinstance(value, torch.Tensor) else value for key, value in values.items()}
