"""Tries mutants, each in a fork of a process that has imported the libraries and nothing of the product.

    python -m tests.software_cuda.mutation NUMBER ...

Started by `mutants.py` with the device in its environment. No file changes: the fork imports the faulty text in place
of the module's own. Processes that a check starts (readers, decoders) have the code as it is.
"""

import importlib
import importlib.abc
import importlib.util
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import CodeType
from typing import Any

from tests.software_cuda import ROOT
from tests.software_cuda.mutants import MUTANTS, Mutant

LIBRARIES = (
    *("torch", "torch.distributed.fsdp", "torch.utils.data", "accelerate", "peft", "bitsandbytes", "torchao.optim"),
    *("diffusers", "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video", "diffusers.optimization"),
    *("diffusers.training_utils", "transformers.models.t5.modeling_t5", "safetensors.torch", "matplotlib.pyplot"),
    *("pydantic", "hydra", "rich.progress", "pebble", "pytest"),
)
TIMEOUT = 600
"""Seconds after which a check hangs, which counts as noticed."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest."""


class _Loader(importlib.abc.InspectLoader):
    """Loads a module from a text."""

    def __init__(self, path: Path, text: str):
        self.path, self.text = path, text

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, str(self.path), "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module."""

    def __init__(self, name: str, path: Path, text: str):
        self.name, self.loader = name, _Loader(path, text)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.loader.path, loader=self.loader)  # type: ignore[arg-type]


def insert(mutant: Mutant) -> None:
    """Makes this process import the mutant in place of its module."""
    path = ROOT / "cogvx_exp" / mutant.file
    text = path.read_text()
    assert text.count(mutant.before) == 1, f"{mutant.file} has {mutant.before!r} {text.count(mutant.before)} times"
    name = ".".join(("cogvx_exp", *Path(mutant.file).with_suffix("").parts))
    sys.meta_path.insert(0, _Finder(name, path, text.replace(mutant.before, mutant.after)))


def checked(checks: str, mutant: Mutant | None) -> tuple[int, str]:
    """Exit code and output of the checks in a fork, with an issue in the code or as it is."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(_run(checks, mutant))
        code = _exit_code(child)
        output.seek(0)
        return code, output.read()


def _run(checks: str, mutant: Mutant | None) -> int:
    import pytest

    try:
        if mutant:
            insert(mutant)
        arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", ""]
        return int(pytest.main([*arguments, checks]))
    except AssertionError as error:
        print(error, flush=True)
        return 70


def _exit_code(child: int) -> int:
    """Of a process; of one that hangs or crashes, that of a check that fails."""
    end = time.monotonic() + TIMEOUT
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return FAILED if code < 0 else code
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return FAILED


def _import_libraries() -> None:
    import torch

    capability = torch.cuda.get_device_capability
    # torchao asks for it when it is imported, which initializes the device; then a fork cannot use it.
    torch.cuda.get_device_capability = lambda device=None: (8, 9)
    for name in LIBRARIES:
        importlib.import_module(name)
    torch.cuda.get_device_capability = capability
    assert not torch.cuda.is_initialized()


def main(numbers: list[int]) -> int:
    """Tries mutants, and returns how many got through."""
    _import_libraries()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["SOFTWARE_CUDA_CACHE"] = cache
        for checks in dict.fromkeys(MUTANTS[number].checks[0] for number in numbers):
            _check_passes(checks)
        return sum(_gets_through(number) for number in numbers)


def _check_passes(checks: str) -> None:
    """Makes sure that checks pass without an issue, and fills the cache.

    Raises:
        RuntimeError: they do not.
    """
    code, said = checked(checks, None)
    if code != PASSED:
        raise RuntimeError(f"{checks} does not pass as it is:\n{said[-4000:]}")


def _gets_through(number: int) -> bool:
    """Whether the checks pass with an issue in the code.

    Raises:
        RuntimeError: they do not run.
    """
    mutant = MUTANTS[number]
    code, said = checked(mutant.checks[0], mutant)
    if code not in (PASSED, FAILED):
        raise RuntimeError(f"mutant {number}: pytest ended with {code}:\n{said[-4000:]}")
    word = "noticed" if code == FAILED else "NOT NOTICED"
    print(f"{number:2} {word:12} {mutant.file}: {mutant.before.strip().splitlines()[0][:80]}", flush=True)
    return code == PASSED


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]]))
