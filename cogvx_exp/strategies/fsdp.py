"""The strategy of torch's FSDP2: weights, gradients and states are sharded over the processes."""

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
    """FSDP2: each process has a shard of every weight, gradient and state; a block is gathered only while it computes.

    Adapters are small: each process has them in full, and their gradients are averaged. They can therefore stay float32
    next to a base of another dtype, which a single FSDP unit does not support.

    Args:
        transformer: the trainable model on the host. It is sharded block by block, so at most one full block is on the
            device.
        make_optimizer: builds the optimizer of the trained weights, or of their shards in full fine-tuning.
        accelerator: for device and dtype.
        dtype: dtype of trained parameters.
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
        # Full fine-tuning with method.parameters also leaves weights frozen, and its trained ones are replicated, too.
        frozen = any(not parameter.requires_grad for parameter in transformer.parameters())
        replicated = set(trainable_parameters(transformer).values()) if frozen else set()
        how: dict[str, Any] = {
            # By default the accelerator's device type, even if the job uses the CPU.
            "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
            "mp_policy": MixedPrecisionPolicy() if frozen else _mixed_precision(accelerator),
            "ignored_params": replicated,
            # Also for parameters outside the blocks, which by default stay gathered after a forward pass without a
            # backward pass: the next step would compute with the weights that validation videos were sampled with.
            "reshard_after_forward": True,
        }
        # Blocks before the model: `fully_shard` leaves out parameters that already belong to another unit.
        for part in (*transformer.transformer_blocks, transformer):
            for parameter in part.parameters():
                if parameter.requires_grad and not isinstance(parameter, DTensor):
                    parameter.data = parameter.data.to(device, dtype)
            fully_shard(part, **how)  # moves the others to the device
        super().__init__(transformer, make_optimizer, accelerator)
        check_even(self.optimizer.optimizer)  # unwrap accelerate's wrapper
        self._replicated = [parameter for parameter in transformer.parameters() if parameter in replicated]

    def clip(self, max_norm: float | None) -> torch.Tensor:
        """Averages the adapter's gradients, then clips all to `max_norm`; returns their norm before clipping."""
        if self._replicated:
            _average_gradients(self._replicated)
        # For sharded gradients, the norm is itself a sharded tensor until it is gathered.
        parameters = list(trainable_parameters(self.transformer).values())
        return whole(torch.nn.utils.clip_grad_norm_(parameters, max_norm or math.inf))

    def rounding_seed(self, seed: int, step: int) -> int:
        """Processes with shards draw independently; with equal seeds, values of different shards would round alike."""
        if self._replicated:
            return super().rounding_seed(seed, step)
        # The rank is part of the key, so a resumed run with as many processes rounds alike.
        return keyed_seed(seed, step, "rounding", dist.get_rank())

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, gathered on the host."""
        trained = trainable_parameters(self.transformer)
        return {name: for_main_process(whole(weight.detach())) for name, weight in trained.items()}

    def gathered(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Full values, on the host of the first process."""
        return [for_main_process(whole(value)) for value in values]

    def placed(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """This process's shards of one value per trained weight."""
        trained = trainable_parameters(self.transformer).values()
        return [part_of(value.to(like.device), like) for value, like in zip(values, trained, strict=True)]

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Loads trained weights, each process its shard."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.transformer).items():
                parameter.copy_(part_of(weights[name].to(parameter.device), parameter))

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state, gathered on the host."""
        state: OptimizerState = self.optimizer.state_dict()
        return {
            # One tensor at a time, in the same order in all processes: each `full_tensor` is a collective.
            "state": {
                number: _map(values, lambda value: for_main_process(whole(value)))
                for number, values in state["state"].items()
            },
            "param_groups": state["param_groups"],
        }

    def load_optimizer_state(self, learned: OptimizerStates) -> None:
        """Loads the learned state of an optimizer of the same class, each process its shard; settings are kept."""
        parameters = trainable_parameters(self.transformer)
        # Only tensors of the parameter's own shape are sharded; step counts and factored moments stay whole.
        parts = {name: _map(values, partial(part_of, like=parameters[name])) for name, values in learned.states.items()}
        super().load_optimizer_state(replace(learned, states=parts))

    def full_model(self) -> CogVideoXTransformer3DModel:
        """The transformer with full weights, on the host of the first process."""
        if getattr(self.transformer, "peft_config", None):
            return self.transformer  # adapters are not sharded
        # One at a time: all at once would not fit on a device that needed sharding in the first place.
        weights = {name: for_main_process(whole(value)) for name, value in self.transformer.state_dict().items()}
        return copy_for_main_process(self.transformer, weights)


def _mixed_precision(accelerator: Accelerator) -> MixedPrecisionPolicy:
    """Blocks are gathered in the dtype they compute in, and gradients are averaged in float32.

    Inputs are left to autocast: FSDP would also round the rotary positions.
    """
    if accelerator.mixed_precision != "bf16":
        return MixedPrecisionPolicy()
    return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)


def _average_gradients(parameters: list[torch.nn.Parameter]) -> None:
    """Averages gradients over all processes in a single collective: a LoRA of a 5b has 336 of them, of one dtype."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    assert len(gradients) == len(parameters)
    together = _flatten_dense_tensors(gradients)
    dist.all_reduce(together)
    together /= dist.get_world_size()
    for parameter, gradient in zip(parameters, _unflatten_dense_tensors(together, gradients), strict=True):
        # Views of the flat tensor replace the old gradients, which are freed.
        parameter.grad = gradient


def _map(values: dict[str, Any], function: Any) -> dict[str, Any]:
    return {key: function(value) if isinstance(value, torch.Tensor) else value for key, value in values.items()}
