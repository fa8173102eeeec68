"""Takes a model off the GPU for a while, in a way that training survives."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from cogvx_exp.model.device import release


@contextmanager
def on_host(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside, the weights of a module are in host memory.

    Trained weights stay where they are, and only the memory behind them is freed. `Module.to` would give them new
    gradient accumulators (torch/csrc/autograd/variable.cpp, `VariableHooks::set_data`, for another device or type), and
    the hooks by which DistributedDataParallel averages gradients hang on the old ones: training would go on without
    averaging, and without an error (https://github.com/pytorch/pytorch/issues/104336).
    """
    trained = {id(parameter): parameter for parameter in module.parameters() if _is_plain_and_trained(parameter)}

    def move(target: torch.device) -> None:
        # `Module.to` without its effect on what is trained; FSDP2 has its own `_apply`, which this calls.
        module._apply(lambda tensor: tensor.detach() if id(tensor) in trained else tensor.to(target))

    kept = [
        (parameter, parameter.detach().to("cpu"))
        for parameter in trained.values()
        if parameter.device.type != "cpu" and _owns_its_memory(parameter)
    ]
    for parameter, _ in kept:
        parameter.untyped_storage().resize_(0)
    move(torch.device("cpu"))
    release(device)
    try:
        yield
    finally:
        for parameter, weight in kept:
            parameter.untyped_storage().resize_(weight.nbytes)
            with torch.no_grad():
                parameter.copy_(weight)
        move(device)


def _is_plain_and_trained(parameter: nn.Parameter) -> bool:
    """A trained weight that is no part of a split one (DTensor): FSDP2 moves those itself."""
    return parameter.requires_grad and type(parameter.data) is torch.Tensor


def _owns_its_memory(parameter: torch.Tensor) -> bool:
    """Whether nothing else is in its storage: the weights of ZeRO are slices of one buffer."""
    return parameter.is_contiguous() and parameter.untyped_storage().nbytes() == parameter.nbytes
