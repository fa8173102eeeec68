"""torchao's CPUOffloadOptimizer with additions: clipping, accumulation, and weights that are set from outside."""

import logging
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torchao.optim import CPUOffloadOptimizer

logger = logging.getLogger(__name__)


class OffloadedOptimizer(CPUOffloadOptimizer):
    """Optimizer states, a copy of the weights and the step are on the host.

    torchao's steps use copies of the gradients on the host, which usual clipping does not affect; here they are
    clipped.
    """

    def __init__(self, *args: Any, **keywords: Any):
        super().__init__(*args, **keywords)
        sizes = [copy.numel() * copy.element_size() for copy in self.param_d2h_map.values()]
        logger.info("weights copied to pinned host memory: %d, %.2f GiB", len(sizes), sum(sizes) / 2**30)
        for parameter in self.param_d2h_map:
            # torchao copies from `parameter.grad` on its own stream; accumulation would add to it in the meantime.
            parameter.register_hook(partial(self._wait_for_copy, parameter))

    def _wait_for_copy(self, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        """Called before a gradient is added to `parameter.grad`, which the previous pass may still be copying."""
        if parameter in self.queue:
            torch.cuda.current_stream(parameter.device).wait_event(self.queue[parameter])

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Clips the gradients to `max_norm` and returns their global norm before clipping."""
        self.stream.synchronize()  # wait for the copies to the host
        parameters = list(self._with_gradients())
        # The norm needs all gradients, so with clipping no step overlaps with a copy.
        total = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        clip_grads_with_norm_(parameters, max_norm, total)
        return total

    def _with_gradients(self) -> Iterator[torch.Tensor]:
        for parameter in self.queue:
            # Only what the last backward passes have queued: the host's gradient buffers are never None and may be
            # stale.
            yield self.param_d2h_map[parameter]
        for group in self.d_param_groups:
            yield from (parameter for parameter in group["params"] if parameter.grad is not None)

    @property
    def parts(self) -> list[torch.optim.Optimizer]:
        """The optimizers of the parameters on the host, and the one for small parameters on the device."""
        return [*self.optim_dict.values(), *([self.d_opt] if self.d_opt else [])]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state, and copies the current weights from the device."""
        super().load_state_dict(state_dict)
        self.take_weights()

    @torch.no_grad()
    def take_weights(self) -> None:
        """Updates the host's copies after a state was loaded or weights on the device were set."""
        if self.d_opt:  # loading replaced its groups; learning rates set in the old ones would have no effect
            self.d_param_groups = self.d_opt.param_groups
        for on_device, on_host in self.param_d2h_map.items():
            on_host.copy_(on_device)

    def free_host_memory(self) -> None:
        """Frees the copies and states on the host; no step may follow."""
        for copies in (self.queue, self.param_d2h_map, self.optim_dict):
            copies.clear()
