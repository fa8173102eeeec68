"""Which process this is, which GPU it takes, and how it leaves the others."""

import pytest
import torch

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.distributed.process_group import local_device, rank_and_world_size
from cogvx_exp.model import device
from cogvx_exp.training import run


@pytest.fixture(autouse=True)
def no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


def set_slurm(monkeypatch: pytest.MonkeyPatch, rank: int, local: int, step: str | None) -> None:
    for name, value in {"PROCID": rank, "NTASKS": 8, "LOCALID": local, "STEP_ID": step}.items():
        if value is not None:
            monkeypatch.setenv(f"SLURM_{name}", str(value))


def test_a_batch_script_is_not_the_first_of_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """`sbatch --ntasks=8` runs the script once, with the variables of a task; srun starts all of them, in a step."""
    set_slurm(monkeypatch, 0, 0, None)
    assert rank_and_world_size() is None
    set_slurm(monkeypatch, 3, 3, "0")
    assert rank_and_world_size() == (3, 8)


@pytest.mark.parametrize(("visible", "expected"), [(1, "cuda:0"), (4, "cuda:3"), (8, "cuda:3")])
def test_a_task_takes_its_own_gpu_of_those_that_it_sees(
    visible: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --gpus-per-task=1, Slurm shows each task one GPU, number 0."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    set_slurm(monkeypatch, 3, 3, "0")
    assert local_device("cuda") == local_device("auto") == expected
    assert local_device("cpu") == "cpu"


@pytest.mark.parametrize("fails", [False, True])
def test_a_process_that_fails_does_not_wait_for_the_others(
    fails: bool, monkeypatch: pytest.MonkeyPatch, make_job
) -> None:
    """With nccl, leaving the group waits for kernels that wait for the other processes."""
    left: list[bool] = []
    monkeypatch.setattr(run, "destroy_process_group", lambda: left.append(True))
    job: TrainJob = make_job("device=cpu")
    try:
        with run.joined(job):
            if fails:
                raise RuntimeError("a kernel failed")
    except RuntimeError:
        pass
    assert left == [True] * (not fails)


def test_tf32_is_set_for_products_and_for_convolutions() -> None:
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [flag.allow_tf32 for flag in flags]
    try:
        for allowed in (False, True):
            run.set_tf32(allowed)
            assert [flag.allow_tf32 for flag in flags] == [allowed, allowed]
    finally:
        for flag, value in zip(flags, before, strict=True):
            flag.allow_tf32 = value


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_a_version_of_torch_without_a_setting_of_its_allocator_will_do(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch 2.11 raises ValueError for a key that it does not know."""

    def refuse(settings: str) -> None:
        raise error(f"Unrecognized key '{settings}' in Accelerator allocator config.")

    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", refuse)
    device._choose_gpu("cuda")
