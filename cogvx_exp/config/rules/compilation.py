"""Rules about compilation."""

from collections.abc import Iterator

from cogvx_exp.config.faults import Fault
from cogvx_exp.config.schema import TrainJob


def compilation_is_possible(job: TrainJob) -> Iterator[Fault]:
    """What torch.compile cannot do with a block."""
    if not job.compile:
        if job.compile_dynamic is not None:
            yield Fault(f"compile_dynamic={str(job.compile_dynamic).lower()}", "is read with compile=blocks only")
        return
    if job.distributed.name == "zero3":
        problem = "gathers weights by hooks inside of the blocks, which breaks their graph; use fsdp, or compile=false"
        yield Fault("distributed=zero3", problem)
