"""Rules about the attention kernel, compilation, 8-bit matrix products, and the card that a time is predicted for."""

from collections.abc import Iterator
from importlib.util import find_spec

from cogvx_exp.config.choices import attention_choices
from cogvx_exp.config.issues import Issue
from cogvx_exp.config.rules.processes import gpu_dtype
from cogvx_exp.config.schema import GenerateJob, TrainJob
from cogvx_exp.config.schema.attention import Attention

NOT_FOR_TIME = ("device", "price_per_hour")
"""Settings of `hardware` without which a time can be predicted."""


def attention_is_possible(job: TrainJob | GenerateJob) -> Iterator[Issue]:
    """Issues with the attention kernel that can be detected without a GPU."""
    attention, setting = job.attention, f"attention={job.attention.name}"
    device = job.device.partition(":")[0]
    # With device=auto the check is left to the training machine, which may be a different one.
    dtype = gpu_dtype(job.model) if device != "cpu" else "float32"
    if device != "auto" and (reason := problem(attention, device, dtype)):
        yield Issue(setting, reason)
    if isinstance(job, TrainJob) and attention.backward == "none":
        yield Issue(setting, f"has no backward pass; for training use {_those_that_can(device, dtype)}")
    if attention.needs_compile and not job.compile:
        yield Issue(setting, "materializes all attention scores unless it is compiled; add compile=blocks")


def problem(attention: Attention, device: str, dtype: str, capability: tuple[int, int] | None = None) -> str | None:
    """Why a kernel cannot be used, and the kernels that can; None if it can be used.

    Args:
        attention: the setting.
        device: cpu or cuda.
        dtype: type of the computation.
        capability: the GPU's compute capability, if known.
    """
    reason = _reason(attention, device, dtype, capability)
    return f"{reason}; use {_those_that_can(device, dtype, capability)}" if reason else None


def _reason(attention: Attention, device: str, dtype: str, capability: tuple[int, int] | None) -> str | None:
    if attention.device == "cuda" and device == "cpu":
        return "needs an NVIDIA GPU"
    if device == "cuda" and dtype not in attention.cuda_dtypes:
        return f"supports {' and '.join(attention.cuda_dtypes)}, but the model computes in {dtype}"
    needed = attention.min_compute_capability
    if needed and capability and capability < divmod(round(needed * 10), 10):
        return f"needs compute capability {needed:g}, but this GPU has {capability[0]}.{capability[1]}"
    if attention.package and find_spec(attention.package) is None:
        return f"needs the package {attention.package}, which is not installed"
    return None


def _those_that_can(device: str, dtype: str, capability: tuple[int, int] | None = None) -> str:
    return ", ".join(
        choice.name
        for choice in map(Attention.model_validate, attention_choices())
        if _reason(choice, device, dtype, capability) is None and choice.backward != "none"
    )


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


def card_is_known(job: TrainJob) -> Iterator[Issue]:
    """An issue for each figure that a card lacks; with `hardware=auto` it is that of the card found."""
    if job.hardware.name == "auto":
        return
    for name, value in job.hardware:
        if value is None and name not in NOT_FOR_TIME:
            problem = f"is needed with hardware={job.hardware.name}; hardware=auto takes the card's own"
            yield Issue(f"hardware.{name}=null", problem)
