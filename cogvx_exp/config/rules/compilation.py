"""Rules about compilation and 8-bit matrix products."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.rules.processes import gpu_dtype
from cogvx_exp.config.schema import TrainJob


def products_are_possible(job: TrainJob) -> Iterator[Issue]:
    """Requirements of 8-bit matrix products."""
    if job.quant.compute != "8bit":
        return
    if job.quant.name not in ("int8", "fp8"):
        yield Issue(
            "quant.compute=8bit", f"quant={job.quant.name} does not store 8-bit weights; use quant=fp8 or quant=int8"
        )
    if job.quant.name == "fp8" and job.device.startswith("cuda") and gpu_dtype(job.model) == "float16":
        problem = "float8 products cannot return float16; add model.dtype=bfloat16, or use quant=int8"
        yield Issue("quant.compute=8bit", problem)


def compilation_is_possible(job: TrainJob) -> Iterator[Issue]:
    """Limits of torch.compile."""
    if not job.compile:
        if job.compile_dynamic is not None:
            yield Issue(f"compile_dynamic={str(job.compile_dynamic).lower()}", "only applies with compile=blocks")
        return
    if job.method.adapter not in (None, "lora"):
        problem = f"only supports method=lora, lora_ff and sft: peft's {job.method.name} layers break the graph"
        yield Issue(f"compile={str(job.compile).lower()}", problem)
    if job.distributed.name == "zero3":
        problem = "gathers weights in hooks inside the blocks, which break the graph; use fsdp, or compile=false"
        yield Issue("distributed=zero3", problem)
