"""Memory while the transformer is loaded, before training."""

import torch
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.estimate.trace.training_step import StepBytes
from cogvx_exp.model.adapt import trained_dtype
from cogvx_exp.model.quantization.quantize import quantized_layers

COPIES_TO_QUANTIZE = {"int8": 2, "fp8": 3}
"""Simultaneous copies of a weight in float32, scaled and clamped, in torchao (torchao/quantization/quant_primitives.py,
`quantize_affine` and `_quantize_affine_float8`). For fp8 the first copy is the weight itself if it is float32."""


def loading_peak(job: TrainJob, step: StepBytes, dtype: torch.dtype) -> int:
    """Peak bytes on the device before the first step.

    Args:
        job: a checked job.
        step: what is resident before the first step.
        dtype: dtype of the frozen weights.
    """
    resident = step.resident.total()
    with torch.device("meta"):
        # One block is enough, as all are alike.
        architecture = job.model.transformer.model_copy(update={"num_layers": 1})
        block = CogVideoXTransformer3DModel(**architecture.model_dump()).transformer_blocks[0]
    if job.quant.name != "none":
        return max(resident, _quantizing_peak(job, block, dtype))
    if job.method.kind == "full" and trained_dtype(job.optim) != dtype:
        # `make_trainable` casts weights one at a time.
        return resident + max(weight.numel() for weight in block.parameters()) * dtype.itemsize
    return resident


def _quantizing_peak(job: TrainJob, block: torch.nn.Module, dtype: torch.dtype) -> int:
    """Peak bytes while the last block is quantized (`cogvx_exp.model.quantization.quantize.quantize_block`)."""
    packed_bytes, layers = job.quant.bytes_per_weight, quantized_layers(block, job.quant.name)
    assert packed_bytes
    weights = [layer.weight.numel() for layer in layers]
    whole = sum(weight.numel() for weight in block.parameters()) * dtype.itemsize
    packed = whole - sum(round(values * (dtype.itemsize - packed_bytes)) for values in weights)
    others = (job.model.transformer.num_layers - 1) * packed
    if job.quant.name == "nf4":  # the kernel makes no copies; all weights of a block are freed together
        return others + whole + round(sum(weights) * packed_bytes)
    allocated = peak = whole
    copies = COPIES_TO_QUANTIZE[job.quant.name] - (job.quant.name == "fp8" and dtype == torch.float32)
    for values in weights:
        peak = max(peak, allocated + copies * torch.float32.itemsize * values)
        allocated -= round(values * (dtype.itemsize - packed_bytes))
    return others + peak
