"""Attention of the transformer blocks: the processor, its kernels, and gradients for quantized kernels."""
