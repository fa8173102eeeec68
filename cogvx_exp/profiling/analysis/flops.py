"""Counts the operations of recorded matrix products, convolutions and attention from their shapes."""

import json
import math
from typing import Any

from torch.utils import flop_counter

from cogvx_exp.profiling.analysis.trace import Event

PRODUCTS = {
    "aten::mm": flop_counter.mm_flop,
    "aten::_int_mm": flop_counter.mm_flop,
    "aten::_scaled_mm": flop_counter.mm_flop,
    "aten::bmm": flop_counter.bmm_flop,
    "aten::addmm": flop_counter.addmm_flop,
    "aten::baddbmm": flop_counter.baddbmm_flop,
}
ATTENTION = "aten::_scaled_dot_product_"
MADE_OF_OTHERS = "aten::_scaled_dot_product_attention_math"
"""Attention whose matrix products are recorded as separate operators."""


def flops_of(event: Event) -> float:
    """Floating-point operations of an operator; 0 if its kind is not counted."""
    name, shapes = event.name, event.about.get("Input Dims", [])
    if name in PRODUCTS:
        count: Any = PRODUCTS[name]
        inputs = 3 if "add" in name else 2  # addmm and baddbmm take the summand first
        return float(count(*shapes[:inputs]))
    if name == "aten::convolution":
        return _convolution(shapes[0], shapes[1], event.about["Concrete Inputs"])
    if name == "aten::convolution_backward":
        return _convolution_backward(shapes, event.about["Concrete Inputs"])
    if not name.startswith(ATTENTION) or name.startswith(MADE_OF_OTHERS):
        return 0.0
    if "backward" in name:
        return float(flop_counter.sdpa_backward_flop_count(*shapes[:4]))
    return float(flop_counter.sdpa_flop_count(*shapes[:3]))


def _convolution(inputs: list[int], weight: list[int], values: list[str]) -> float:
    """Operations of a convolution that is not transposed. `values`: its arguments, stride, padding, dilation from 3."""
    stride, padding, dilation = (json.loads(text) for text in values[3:6])
    sizes = zip(inputs[2:], weight[2:], stride, padding, dilation, strict=True)
    places = [(size + 2 * pad - step * (kernel - 1) - 1) // skip + 1 for size, kernel, skip, pad, step in sizes]
    return 2.0 * inputs[0] * math.prod(places) * math.prod(weight)


def _convolution_backward(shapes: list[list[int]], values: list[str]) -> float:
    """One product each for the gradients of the input and of the weight, if required."""
    # The output mask: a frozen convolution has no weight gradient, an input image no input gradient.
    output_mask = json.loads(values[10].lower())[:2]
    return 2.0 * shapes[0][0] * math.prod(shapes[0][2:]) * math.prod(shapes[2]) * sum(output_mask)
