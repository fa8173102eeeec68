"""Attention of the transformer's blocks: the processor, the kernels it can use, gradients of quantized ones."""
