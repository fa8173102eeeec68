"""How gradients become a step: alone, or together with other processes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from cogvx_exp.core.randomness import keyed_seed
from cogvx_exp.model.adapt import trainable_parameters
from cogvx_exp.optim.build import clip_gradients, page_states
from cogvx_exp.optim.state import OptimizerStates, load_states

MakeOptimizer = Callable[[dict[str, torch.nn.Parameter]], torch.optim.Optimizer]

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers as wide as a value of so many bytes."""

OptimizerState = dict[str, Any]
"""As torch.optim gives it: `state` by the parameter's number, and `param_groups`."""


class Strategy:
    """One process, all of the model.

    Args:
        transformer: the trainable model.
        make_optimizer: builds the optimizer of parameters by name.
        accelerator: mixed precision and the scaling of float16's gradients.
    """

    gathers = False
    """Whether all processes are needed to put the state together."""

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, make_optimizer: MakeOptimizer, accelerator: Accelerator
    ):
        self.transformer = transformer
        self.model: torch.nn.Module = transformer
        """What the forward pass is made with."""
        self.accelerator = accelerator
        optimizer = make_optimizer(trainable_parameters(transformer))
        self.optimizer = accelerator.prepare(optimizer, device_placement=[False])  # its states are where they belong

    @property
    def computes_in_16_bit(self) -> bool:
        """Whether the matrix products are in float16 or bfloat16."""
        return self.accelerator.mixed_precision != "no" or self.transformer.dtype != torch.float32

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Around a forward and backward pass. `last`: the gradients of a step are then complete."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """Around a forward pass: mixed precision."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """Adds the gradients of a loss."""
        self.accelerator.backward(loss)

    def clip(self, max_norm: float | None) -> torch.Tensor | None:
        """Scales the step's gradients down to `max_norm` (None: never).

        Returns:
            Their global norm before, where it was computed: the host has not waited for it. None: only `step` knows it.
        """
        return clip_gradients(self.optimizer, self.accelerator, max_norm)

    def step(self) -> float | None:
        """Moves the weights, frees the gradients. Returns the norm before clipping if `clip` did not."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return None

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by name, on the host; if it `gathers`, all call it, and the first one gets them."""
        trained = trainable_parameters(self.transformer)
        return {name: weight.detach().to("cpu", copy=True) for name, weight in trained.items()}

    def gathered(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Whole values of tensors that are split as the trained weights are; if it `gathers`, for the first process."""
        return list(values)

    def placed(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The inverse of `gathered`, for one value of each trained weight, in their order."""
        return [value.to(self.transformer.device) for value in values]

    def rounding_seed(self, seed: int, step: int) -> int:
        """What the process seeds an optimizer that rounds stochastically with, for one step.

        Processes that have the same weights draw the same, or their weights part.
        """
        return keyed_seed(seed, step, "rounding")

    def fingerprint(self) -> list[int]:
        """Tells weights apart that all processes should have alike: sums of their bits, exact in any order of adding.

        Weights that are split over the processes are left out.
        """
        sums = [
            weight.detach().view(BITS[weight.element_size()]).sum(dtype=torch.int64)
            for weight in trainable_parameters(self.transformer).values()
            if not isinstance(weight, DTensor) and not hasattr(weight, "ds_id")
        ]
        return [int(value) for value in torch.stack(sums).tolist()] if sums else []

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Takes over trained weights."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.transformer).items():
                parameter.copy_(weights[name])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained weights by name."""
        return {name: tuple(weight.shape) for name, weight in trainable_parameters(self.transformer).items()}

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state; if it `gathers`, all processes call it, and the first one gets it."""
        state: OptimizerState = self.optimizer.state_dict()
        return state

    def load_optimizer_state(self, learned: OptimizerStates) -> None:
        """Takes over what an optimizer of the same class has learned, after the weights; the settings stay."""
        load_states(self.optimizer, trainable_parameters(self.transformer), learned)
        page_states(getattr(self.optimizer, "optimizer", self.optimizer))  # out of accelerate's wrapper

    def forget_optimizer_state(self) -> None:
        """Frees the optimizer's states; no step comes any more."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # out of accelerate's wrapper
        for part in getattr(optimizer, "parts", [optimizer]):
            getattr(part, "state", {}).clear()
        if hasattr(optimizer, "free_host_memory"):
            optimizer.free_host_memory()

    def full_model(self) -> CogVideoXTransformer3DModel:
        """The transformer with all of its weights; all processes call it, that of the first one is complete."""
        return self.transformer


class DataParallel(Strategy):
    """Each process has all of the model, and gradients are averaged."""

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, make_optimizer: MakeOptimizer, accelerator: Accelerator
    ):
        super().__init__(transformer, make_optimizer, accelerator)
        devices = [accelerator.device] if accelerator.device.type == "cuda" else None
        # All have built the same model: nothing has to be sent, neither now nor before each pass.
        self._parallel = DistributedDataParallel(
            transformer, device_ids=devices, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
        )
        self.model = self._parallel

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged in the last backward pass of a step only."""
        context: AbstractContextManager[None] = nullcontext() if last else self._parallel.no_sync()
        return context


def splits_weights(how: str) -> bool:
    """Whether `distributed=how` splits the weights: its strategy takes a model on the host to the device bit by bit."""
    return how in ("fsdp", "zero3")


def build_strategy(
    how: str,
    transformer: CogVideoXTransformer3DModel,
    make_optimizer: MakeOptimizer,
    accelerator: Accelerator,
    dtype: torch.dtype,
) -> Strategy:
    """The strategy of `distributed=how`.

    Args:
        how: the choice.
        transformer: the trainable model, on the device; on the host where `splits_weights`.
        make_optimizer: builds the optimizer of parameters by name.
        accelerator: for the device and the type of the computation.
        dtype: type of what is trained.
    """
    if how == "single":
        return Strategy(transformer, make_optimizer, accelerator)
    if how == "ddp":
        return DataParallel(transformer, make_optimizer, accelerator)
    from cogvx_exp.strategies.deepspeed import DeepSpeed
    from cogvx_exp.strategies.fsdp import FullySharded

    if how == "fsdp":
        return FullySharded(transformer, make_optimizer, accelerator, dtype)
    stage = 3 if how == "zero3" else 2
    return DeepSpeed(transformer, make_optimizer, accelerator, stage, offload=how == "zero2_offload")
