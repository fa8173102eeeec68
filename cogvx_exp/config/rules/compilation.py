"""Rules about compilation and products in 8 bits."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.rules.processes import gpu_dtype
from cogvx_exp.config.schema import TrainJob


def products_are_possible(job: TrainJob) -> Iterator[Issue]:
    """What can be computed in 8 bits."""
    if job.quant.compute != "8bit":
        return
    if job.quant.name not in ("int8", "fp8"):
        yield Issue(
            "quant.compute=8bit", f"quant={job.quant.name} has no weights of 8 bits; use quant=fp8 or quant=int8"
        )
    if job.quant.name == "fp8" and job.device.startswith("cuda") and gpu_dtype(job.model) == "float16":
        problem = "products of float8 give no float16; add model.dtype=bfloat16, or use quant=int8"
        yield Issue("quant.compute=8bit", problem)


def compilation_is_possible(job: TrainJob) -> Iterator[Issue]:
    """What torch.compile cannot do with a block."""
    if not job.compile:
        if job.compile_dynamic is not None:
            yield Issue(f"compile_dynamic={str(job.compile_dynamic).lower()}", "is read with compile=blocks only")
        return
    if job.method.adapter not in (None, "lora"):
        problem = f"only for method=lora, lora_ff and sft: peft's code of {job.method.name} breaks the graph of a block"
        yield Issue(f"compile={str(job.compile).lower()}", problem)
    if job.distributed.name == "zero3":
        problem = "gathers weights by hooks inside of the blocks, which breaks their graph; use fsdp, or compile=false"
        yield Issue("distributed=zero3", problem)
