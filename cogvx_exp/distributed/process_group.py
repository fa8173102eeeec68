"""The process group of a job and its collectives. Importing this module does not import torch."""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from cogvx_exp.core.errors import UserError
from cogvx_exp.distributed.rendezvous import check_first, wait_for_first
from cogvx_exp.distributed.waiting import report_long_wait

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

LONGEST_WAIT = timedelta(days=2)
"""Timeout outside of training steps, when other processes may be encoding for hours."""


@dataclass(frozen=True)
class ProcessGroup:
    """A process's rank among the processes of a job. This base class has no communication: each process runs alone."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this process prints and writes files for all."""
        return self.rank == 0

    def all_gather(self, value: Any) -> list[Any]:
        """The JSON-like values of all processes, in the order of their ranks."""
        return [value]

    def start_all_gather(self, numbers: "torch.Tensor") -> Callable[[], "torch.Tensor"]:
        """Starts to gather the numbers of all processes within a training step, while the caller computes.

        Args:
            numbers: equally many in all processes, on the host or on the process's GPU.

        Returns:
            Waits for the numbers of all processes and returns them, (processes, numbers), without waiting for a GPU;
            fails after `distributed.timeout`.
        """
        return lambda: numbers[None]

    def barrier(self) -> None:
        """Returns once all processes have reached it."""
        self.all_gather(None)


@dataclass(frozen=True)
class TorchProcessGroup(ProcessGroup):
    """Processes connected by torch.distributed."""

    group: Any = None
    """Gloo group with a long timeout; the default group has the short timeout of a step."""

    def start_all_gather(self, numbers: "torch.Tensor") -> Callable[[], "torch.Tensor"]:
        """Starts to gather the numbers of all processes within a training step."""
        from torch.distributed import all_gather

        received = numbers.new_empty(self.world_size, len(numbers))
        work = all_gather(list(received.unbind()), numbers, async_op=True)
        assert work is not None

        def wait() -> "torch.Tensor":
            work.wait()
            return received

        return wait

    def all_gather(self, value: Any) -> list[Any]:
        """The JSON-like values of all processes, in the order of their ranks."""
        import torch
        from torch.distributed import all_gather

        # Not all_gather_object: it unpickles what other machines send, which lets anyone on the network run code here.
        # JSON bytes differ in length and all_gather needs equal shapes, so the sizes are exchanged first.
        encoded = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        all_gather(sizes, torch.tensor([len(encoded)]), group=self.group)
        longest = int(max(sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(encoded)] = encoded
        received = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.world_size)]
        all_gather(received, padded, group=self.group)
        texts = [bytes(data[: int(size)].tolist()) for data, size in zip(received, sizes, strict=True)]
        return [json.loads(text) for text in texts]


def rank_and_world_size() -> tuple[int, int] | None:
    """(rank, world size) if this process is one of several: under torchrun, accelerate, Slurm or our own launch.

    A Slurm batch script has the first task's variables as well, but no step: only srun starts the other tasks.

    Raises:
        UserError: the variables are inconsistent.
    """
    for rank, number, started in (
        ("RANK", "WORLD_SIZE", "RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"),
    ):
        # torchrun's variables come first: a torchrun inside a Slurm job has both.
        if rank not in os.environ or started not in os.environ:
            continue
        place, size = os.environ[rank], os.environ.get(number, "1")
        if not (place.isdecimal() and size.isdecimal() and (int(size) <= 1 or int(place) < int(size))):
            raise UserError(f"{rank}={place} and {number}={size} are not a valid rank; unset both to run one process")
        if int(size) > 1:
            return int(place), int(size)
    return None


def local_device(device: str) -> str:
    """The device of this process: with several on one machine, each takes its own GPU. Imports torch in that case.

    Slurm may show each task only its own GPU, which then has index 0 in all of them.
    """
    # The local rank: global ranks exceed a machine's number of GPUs as soon as there are two machines.
    local = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID"))
    if rank_and_world_size() is None or local is None or device not in ("auto", "cuda"):
        return device
    import torch

    if not torch.cuda.is_available():
        return "cpu" if device == "auto" else device
    return f"cuda:{int(local) % torch.cuda.device_count()}"


def init_process_group(cuda: bool, timeout: int) -> ProcessGroup:
    """Joins the other processes of the job, if there are any.

    Args:
        cuda: whether GPU tensors are communicated (nccl) in addition to host tensors (gloo).
        timeout: timeout of a training step, in seconds.

    Raises:
        UserError: the other processes cannot be reached.
    """
    place = rank_and_world_size()
    if place is None:
        return ProcessGroup()
    import torch.distributed as dist

    rank, world_size = place
    # torch, accelerate and DeepSpeed read these names only; Slurm has its own.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ.setdefault("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0"))
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            source = "RANK" if "SLURM_PROCID" not in os.environ else "SLURM_PROCID"
            raise UserError(
                f"this is process {rank} of {world_size}, but {name} is not set; export it for all of them, or unset "
                f"{source} to run a single process"
            )
    if not dist.is_initialized():
        _meet(rank, world_size, timeout)
        # Both, because losses and JSON are exchanged on the host: with nccl they would cost a copy and a
        # synchronization.
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        logger.info("joining %d processes at %s (%s), timeout of a step %d s", world_size, where, backend, timeout)
        started = time.monotonic()
        try:
            with report_long_wait(f"the other processes ({world_size} in all) at {where}"):
                # The strategies use the default group, so it gets the timeout of a step.
                dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
                # Timeouts belong to groups, so long waits outside of steps need a second one.
                group = dist.new_group(backend="gloo", timeout=LONGEST_WAIT)
        except (RuntimeError, TimeoutError) as error:  # torch's errors of stores, networks and gloo
            reason = str(error).partition("\n")[0][:200]
            raise UserError(
                f"the {world_size} processes did not meet at {where} ({reason}); check that all of them run and that "
                "the machines reach each other (GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME name the network interface)"
            ) from error
        assert dist.get_world_size() == world_size
        logger.info("joined after %.1f s", time.monotonic() - started)
        return TorchProcessGroup(rank, world_size, group)
    return TorchProcessGroup(rank, world_size, dist.new_group(backend="gloo", timeout=LONGEST_WAIT))


def _meet(rank: int, world_size: int, timeout: float) -> None:
    """Waits for the first process, unless torchrun has done so."""
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    if not port.isdecimal():
        raise UserError(f"MASTER_PORT={port} is not a port")
    # torchrun keeps the store open itself; binding the port here would fail.
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    if rank == 0:
        check_first(host, int(port), "MASTER_ADDR and MASTER_PORT")
    else:
        wait_for_first(host, int(port), "MASTER_ADDR and MASTER_PORT", timeout)


def destroy_process_group() -> None:
    """Closes the connection to the other processes, if there is one."""
    import torch.distributed as dist

    # torch may be built without distributed support.
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
