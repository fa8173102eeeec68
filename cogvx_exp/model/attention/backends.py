"""The attention kernels that `attention=` can select: their requirements, and how they are called."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
from hydra.errors import HydraException
from hydra.utils import get_method

from cogvx_exp.config.rules.speed import problem
from cogvx_exp.config.schema.attention import Attention
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.attention.exact_backward import attend_exactly_backward
from cogvx_exp.model.attention.processor import AttentionFunction, VideoTextAttention
from cogvx_exp.model.device import Compute


def check_attention(settings: Attention, compute: Compute) -> None:
    """Checks that this machine meets a kernel's requirements.

    Raises:
        UserError: it does not, or the kernel cannot be imported.
    """
    cuda = compute.device.type == "cuda"
    capability = torch.cuda.get_device_capability(compute.device) if cuda else None
    dtype = str(compute.dtype).removeprefix("torch.")
    if reason := problem(settings, compute.device.type, dtype, capability):
        raise UserError(f"attention={settings.name}: {reason}")
    attention_function(settings)


def set_attention(transformer: CogVideoXTransformer3DModel, settings: Attention) -> None:
    """Sets the attention kernel of all blocks.

    Raises:
        UserError: the kernel is not available.
    """
    # One processor for all blocks, so that its cache of rotations holds each shape once.
    transformer.set_attn_processor(VideoTextAttention(attention_function(settings)))


def attention_function(settings: Attention) -> AttentionFunction:
    """The kernel as a function of query, key and value, each (B, tokens, heads, head_dim).

    Raises:
        UserError: it cannot be imported, or is not available.
    """
    kernel: Any = _imported(settings) if "." in settings.forward else _dispatched(settings)
    if settings.backward == "exact":
        return partial(attend_exactly_backward, kernel)
    return kernel


def _imported(settings: Attention) -> Callable[..., Any]:
    try:
        kernel = get_method(settings.forward)
    except (HydraException, ImportError, ValueError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"attention.forward={settings.forward} is not an importable function: {reason}") from None
    return kernel if settings.backward == "exact" else partial(_output_only, kernel)


def _output_only(kernel: Callable[..., Any], *tensors: torch.Tensor) -> torch.Tensor:
    """Drops the log-sum-exp, which some versions of FlashAttention 3 return as well."""
    result = kernel(*tensors)
    output: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return output


def _dispatched(settings: Attention) -> AttentionFunction:
    names = [name.value for name in AttentionBackendName]
    if settings.forward not in names:
        raise UserError(
            f"attention.forward={settings.forward} is not a backend of diffusers' attention dispatcher; allowed: "
            f"{', '.join(names)}, or the import path of a function"
        )
    backend = AttentionBackendName(settings.forward)
    try:
        with attention_backend(backend):  # checks its requirements; downloads Hub kernels
            pass
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        raise UserError(f"attention={settings.name}: {str(error).splitlines()[0]}") from None
    # `dispatch_attention_fn` has no argument for the log-sum-exp; it passes these on to the kernel.
    extra = {"attention_kwargs": {"return_lse": True}} if settings.backward == "exact" else {}
    return partial(dispatch_attention_fn, backend=backend, **extra)
