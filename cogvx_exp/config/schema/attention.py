"""Group `attention`: the attention kernel and its requirements."""

from typing import Literal

from pydantic import Field

from cogvx_exp.config.schema.model import Dtype
from cogvx_exp.config.schema.section import FilledText, Section


class Attention(Section):
    """The attention kernel of the transformer blocks, in training and sampling."""

    name: str = "auto"
    """Name of the choice, as in `attention=NAME`. Default: auto."""
    forward: FilledText = "native"
    """A backend of diffusers' attention dispatcher, or the import path of a function of query, key and value, each (B,
    tokens, heads, head_dim). It returns the output; with `backward: exact`, the pair of output and log-sum-exp, (B,
    heads, tokens). Default: native."""
    backward: Literal["own", "exact", "none"] = "own"
    """Gradients. own: the kernel has a backward pass. exact: torch's flash attention computes them from the output and
    the log-sum-exp of the forward pass, for kernels that quantize. none: the kernel is for sampling only.
    Default: own."""
    device: Literal["any", "cuda"] = "any"
    """Where the kernel runs. Default: any."""
    cuda_dtypes: list[Dtype] = Field(default=["float32", "float16", "bfloat16"])
    """Dtypes it supports on a GPU. Default: [float32, float16, bfloat16]."""
    min_compute_capability: float | None = Field(default=None, gt=0)
    """Minimum compute capability, such as 9.0 for Hopper. Default: null."""
    package: FilledText | None = None
    """Python package that provides it, if not torch. Default: null."""
    needs_compile: bool = False
    """Whether it requires `compile=blocks`, because it would otherwise materialize all scores. Default: false."""
