"""How a training step runs in one process, and with data parallelism."""

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
from cogvx_exp.optim.build import page_states
from cogvx_exp.optim.clipping import clip_gradients
from cogvx_exp.optim.state import OptimizerStates, load_states

MakeOptimizer = Callable[[dict[str, torch.nn.Parameter]], torch.optim.Optimizer]

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer dtypes by the size of a value in bytes."""

OptimizerState = dict[str, Any]
"""In torch.optim's format: `state` by parameter number, and `param_groups`."""


class Strategy:
    """One process with the whole model.

    Args:
        transformer: the trainable model.
        make_optimizer: builds the optimizer from parameters by name.
        accelerator: mixed precision and float16's gradient scaling.
    """

    gathers = False
    """Whether all processes must take part in collecting the state."""

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, make_optimizer: MakeOptimizer, accelerator: Accelerator
    ):
        self.transformer = transformer
        self.model: torch.nn.Module = transformer
        """The module to call in the forward pass."""
        self.accelerator = accelerator
        optimizer = make_optimizer(trainable_parameters(transformer))
        # Only the optimizer: accelerate would move the model and wrap it on its own terms.
        self.optimizer = accelerator.prepare(optimizer, device_placement=[False])  # states stay where they are

    @property
    def computes_in_16_bit(self) -> bool:
        """Whether matrix products are computed in float16 or bfloat16."""
        return self.accelerator.mixed_precision != "no" or self.transformer.dtype != torch.float32

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass. `last`: it completes the gradients of a step."""
        return nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """Mixed precision for a forward pass."""
        context: AbstractContextManager[None] = self.accelerator.autocast()
        return context

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulates the gradients of a loss."""
        self.accelerator.backward(loss)

    def clip(self, max_norm: float | None) -> torch.Tensor | None:
        """Clips the step's gradients to `max_norm` (None: never).

        Returns:
            Their global norm before clipping, on the device without synchronization. None: `step` returns it.
        """
        # Also without a maximum: the norm is a metric, and it unscales float16 gradients before the step.
        return clip_gradients(self.optimizer, self.accelerator, max_norm)

    def step(self) -> float | None:
        """Steps the weights and frees the gradients. Returns the norm before clipping if `clip` did not."""
        self.optimizer.step()
        # None rather than zeros: gradients then take no memory while videos are sampled.
        self.optimizer.zero_grad(set_to_none=True)
        return None

    def weights(self) -> dict[str, torch.Tensor]:
        """Trained weights by name, on the host; with `gathers`, all processes call it and the first one gets them."""
        trained = trainable_parameters(self.transformer)
        return {name: weight.detach().to("cpu", copy=True) for name, weight in trained.items()}

    def gathered(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Full values of tensors sharded like the trained weights; with `gathers`, for the first process."""
        return list(values)

    def placed(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The inverse of `gathered`, for one value per trained weight, in order."""
        return [value.to(self.transformer.device) for value in values]

    def rounding_seed(self, seed: int, step: int) -> int:
        """Seed for stochastic rounding in one step.

        Processes with the same weights must draw the same numbers, or their weights diverge.
        """
        return keyed_seed(seed, step, "rounding")

    def fingerprint(self) -> list[int]:
        """Detects differences between weights that should be equal in all processes: sums of their bits.

        Integer sums are exact in any order, unlike sums of floats. Sharded weights are skipped.
        """
        sums = [
            # Bits and not values: NaN equals nothing, and -0.0 equals 0.0.
            weight.detach().view(BITS[weight.element_size()]).sum(dtype=torch.int64)
            for weight in trainable_parameters(self.transformer).values()
            if not isinstance(weight, DTensor) and not hasattr(weight, "ds_id")
        ]
        return [int(value) for value in torch.stack(sums).tolist()] if sums else []

    def load_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Loads trained weights."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(self.transformer).items():
                # In place: the optimizer and DistributedDataParallel hold on to these parameter objects.
                parameter.copy_(weights[name])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the trained weights by name."""
        return {name: tuple(weight.shape) for name, weight in trainable_parameters(self.transformer).items()}

    def optimizer_state(self) -> OptimizerState:
        """The optimizer's state; with `gathers`, all processes call it and the first one gets it."""
        state: OptimizerState = self.optimizer.state_dict()
        return state

    def load_optimizer_state(self, learned: OptimizerStates) -> None:
        """Loads the learned state of an optimizer of the same class, after the weights; settings are kept."""
        load_states(self.optimizer, trainable_parameters(self.transformer), learned)
        page_states(getattr(self.optimizer, "optimizer", self.optimizer))  # unwrap accelerate's wrapper

    def forget_optimizer_state(self) -> None:
        """Frees the optimizer's states; no step may follow."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # unwrap accelerate's wrapper
        # The states are cleared, not the optimizer: the schedule and accelerate still refer to it.
        for part in getattr(optimizer, "parts", [optimizer]):
            getattr(part, "state", {}).clear()
        if hasattr(optimizer, "free_host_memory"):
            optimizer.free_host_memory()

    def full_model(self) -> CogVideoXTransformer3DModel:
        """The transformer with full weights; all processes call it, only the first one's result is complete."""
        return self.transformer


class DataParallel(Strategy):
    """Each process has the whole model, and gradients are averaged."""

    def __init__(
        self, transformer: CogVideoXTransformer3DModel, make_optimizer: MakeOptimizer, accelerator: Accelerator
    ):
        super().__init__(transformer, make_optimizer, accelerator)
        devices = [accelerator.device] if accelerator.device.type == "cuda" else None
        # All processes have built the same model, so nothing needs to be broadcast, neither now nor before each pass.
        # gradient_as_bucket_view saves a second copy of all gradients.
        self._parallel = DistributedDataParallel(
            transformer, device_ids=devices, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
        )
        self.model = self._parallel

    def accumulating(self, last: bool) -> AbstractContextManager[None]:
        """Averages gradients only in the last backward pass of a step."""
        # The context must cover the forward pass, too: DDP decides there whether the backward pass communicates.
        context: AbstractContextManager[None] = nullcontext() if last else self._parallel.no_sync()
        return context
