"""torchao's CPUOffloadOptimizer with what it leaves out: clipping, and weights that are set from outside."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torchao.optim import CPUOffloadOptimizer


class OffloadedOptimizer(CPUOffloadOptimizer):
    """Optimizer states, a copy of the weights, and the step itself are on the host.

    torchao ignores clipping, since the gradients it steps with are copies on the host; here those are clipped.
    """

    def clip_gradients(self, max_norm: float) -> torch.Tensor:
        """Scales the gradients down to `max_norm` and returns their global norm before."""
        self.stream.synchronize()  # the copies to the host are complete
        parameters = list(self._with_gradients())
        total = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        clip_grads_with_norm_(parameters, max_norm, total)
        return total

    def _with_gradients(self) -> Iterator[torch.Tensor]:
        for parameter in self.queue:
            yield self.param_d2h_map[parameter]
        for group in self.d_param_groups:
            yield from (parameter for parameter in group["params"] if parameter.grad is not None)

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over a state, and the weights as they are now on the device."""
        super().load_state_dict(state_dict)
        for on_device, on_host in self.param_d2h_map.items():
            on_host.copy_(on_device)
