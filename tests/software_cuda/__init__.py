"""A software CUDA for tests: `torch.device("cuda")` of a CPU-only torch, with host memory behind it and real numbers.

It is installed in processes that are started with `environment(...)`, and in their children: `site/sitecustomize.py` is
first on their PYTHONPATH and installs the device as soon as a process imports torch (`install.py`). The test process
itself never loads it, since `device=auto` would then mean something else everywhere.

What it shows, and what it cannot show, is in docs/gpu.md. Variables of the environment:

    SOFTWARE_CUDA             the built library; without it nothing happens
    SOFTWARE_CUDA_DEVICES     number of devices, at most 4
    SOFTWARE_CUDA_TOTAL_MIB   size of a device; above it there is torch.OutOfMemoryError
    SOFTWARE_CUDA_TAKEN_MIB   what other programs have taken of it
    SOFTWARE_CUDA_RACES       0: accesses without an order are not looked for, 1: told on stderr, 2: raised
    SOFTWARE_CUDA_POISON      0: fresh memory is not filled with NaN
    SOFTWARE_CUDA_PARK        becomes `model.blocks.WORTH_PARKING`, so that activations of tiny models are parked
"""

import os
from pathlib import Path

from tests.software_cuda.build import library

SITE = Path(__file__).parent / "site"
ROOT = Path(__file__).parents[2]


def environment(devices: int = 1, total_mib: int | None = None, races: int = 2, **more: str) -> dict[str, str]:
    """The environment of a process that is to have `devices` software GPUs. Builds the library if need be.

    Raises:
        NoCompilerError: it cannot be built.
    """
    own = {"SOFTWARE_CUDA": str(library()), "SOFTWARE_CUDA_DEVICES": str(devices), "SOFTWARE_CUDA_RACES": str(races)}
    if total_mib:
        own["SOFTWARE_CUDA_TOTAL_MIB"] = str(total_mib)
    paths = [str(SITE), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # Nothing is compiled: there is no code generator for this device, and on the CPU it would take minutes.
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TORCHDYNAMO_DISABLE": "1", **own, **more}
