"""Elementwise bytes of a compiled block compared with the same block in eager mode.

    python -m benchmarks.compiled_traffic            # about two minutes on 2 cores

Compiles a full-width block of the 5b with a LoRA for a short clip. TorchInductor counts the buffers that each generated
kernel reads and writes (`GraphLowering.count_bytes`); products and attention, which it does not generate, are not
counted. The backward pass includes recomputation, as with `memory.activations=checkpoint`.
"""

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

import torch
from diffusers import CogVideoXTransformer3DModel
from torch._inductor import compile_fx, config, metrics
from torch._inductor.scheduler import ExternKernelSchedulerNode

from benchmarks.traffic import GB, job_of
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.trace.traffic import block_traffic
from cogvx_exp.model.adapt import make_trainable
from cogvx_exp.model.attention.backends import set_attention
from cogvx_exp.model.compilation import compile_blocks
from cogvx_exp.model.device import Compute
from cogvx_exp.model.offload.blocks import apply_memory_options
from cogvx_exp.model.positions import rotary_positions

SETTINGS = ["model=5b", "model.transformer.num_layers=1", "memory.activations=checkpoint"]
SHAPE = Bucket(17, 240, 320)
LATENTS = (5, 30, 40)
TEXT, VIDEO = 226, 5 * 15 * 20


def eager_bytes() -> float:
    """Elementwise bytes of a forward and backward pass of the block."""
    traffic = block_traffic(job_of(SETTINGS), SHAPE)
    return traffic.forward.bytes["elementwise"] + traffic.backward.bytes["elementwise"]


def compiled_bytes() -> float:
    """Bytes of the compiled block; the forward pass counts twice since it is recomputed."""
    job, compute = job_of(SETTINGS), Compute(torch.device("cpu"), torch.bfloat16)
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).to(compute.dtype)
    make_trainable(transformer.requires_grad_(False), job.method, 0)
    apply_memory_options(transformer.train(), job.memory, compute.device)
    set_attention(transformer, job.attention)
    compile_blocks(transformer, False, job.cache_dir)
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    video, text = (torch.randn(1, tokens, width, dtype=compute.dtype).requires_grad_() for tokens in (VIDEO, TEXT))
    timestep = torch.randn(1, transformer.config.time_embed_dim, dtype=compute.dtype)
    with compute.autocast():
        output = transformer.transformer_blocks[0].forward(
            video, text, timestep, rotary_positions(dict(transformer.config), LATENTS, compute.device)
        )
    forward = _counted()
    torch.autograd.backward(output, [torch.randn_like(tensor) for tensor in output])
    return forward + _counted()


def _counted() -> float:
    """Bytes of the kernels generated so far."""
    generated = [values for node, values in metrics.nodes_num_elem if not isinstance(node, ExternKernelSchedulerNode)]
    return 4 * sum(generated)


class _Metrics:
    """An enabled log without output."""

    def isEnabledFor(self, level: int) -> bool:
        return True

    def info(self, *message: object) -> None:
        pass


def main() -> None:
    config.force_disable_caches = True
    compile_fx.inductor_metrics_log = _Metrics()  # torch only counts when this log is enabled
    eager, compiled = eager_bytes(), compiled_bytes()
    print(f"{'eager':<24} {eager / GB:.2f} GB\n{'compiled':<24} {compiled / GB:.2f} GB")
    print(f"{'ratio':<24} {compiled / eager:.2f}")


if __name__ == "__main__":
    main()
