"""Steps each parameter as soon as its gradient has accumulated, and frees the gradient."""

from collections.abc import Callable
from typing import Any

import torch


class OptimizerInBackward(torch.optim.Optimizer):
    """One optimizer per parameter, stepped from a hook in the backward pass.

    At most a few gradients are in memory. The global norm is therefore only known after all weights have been stepped:
    it can be reported, but not used for clipping.

    Args:
        groups: parameter groups.
        make: builds an optimizer from parameter groups.
    """

    def __init__(self, groups: list[dict[str, Any]], make: Callable[..., torch.optim.Optimizer]):
        self._optimizers = {
            # A copy of the group for each, as optimizers write learned values into it.
            parameter: make([{**group, "params": [parameter]}])
            for group in groups
            for parameter in group["params"]
        }
        self._square_norms: list[torch.Tensor] = []
        # Post-accumulate: an ordinary hook sees the gradient before it is in `parameter.grad`.
        self._hooks = [parameter.register_post_accumulate_grad_hook(self._move) for parameter in self._optimizers]

    @torch.no_grad()
    def _move(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        # In float32: squares of 16-bit gradients can overflow or vanish.
        self._square_norms.append(parameter.grad.float().square().sum())
        self._optimizers[parameter].step()
        # The memory is reused for the next gradient within the same backward pass.
        parameter.grad = None

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """One group per parameter; learning rates set here take effect."""
        return [group for optimizer in self._optimizers.values() for group in optimizer.param_groups]

    @property
    def parts(self) -> list[torch.optim.Optimizer]:
        """The optimizers of the parameters."""
        return list(self._optimizers.values())

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Returns the global norm of the last backward pass; there is nothing left to clip."""
        # Summed on the device: reading each norm would synchronize once per parameter.
        norm = torch.stack(self._square_norms).sum().sqrt() if self._square_norms else torch.zeros(())
        self._square_norms.clear()
        return norm

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Does nothing: the weights have already been stepped."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Does nothing: the gradients have already been freed."""

    def state_dict(self) -> dict[str, Any]:
        """The states of all optimizers, in the order of the parameters."""
        return {"parameters": [optimizer.state_dict() for optimizer in self._optimizers.values()]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads the result of `state_dict`, including settings."""
        for optimizer, state in zip(self._optimizers.values(), state_dict.get("parameters", []), strict=True):
            optimizer.load_state_dict(state)
