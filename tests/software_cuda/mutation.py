"""Tries mutants, each in a fork (`tests/mutation.py`).

    python -m tests.software_cuda.mutation NUMBER ...

Started by `mutants.py` with the device in its environment.
"""

import importlib
import os
import sys
import tempfile

from tests.mutation import FAILED, LIBRARIES, PASSED, checked
from tests.software_cuda.mutants import MUTANTS


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
    code, said = checked([checks], None)
    if code != PASSED:
        raise RuntimeError(f"{checks} does not pass as it is:\n{said[-4000:]}")


def _gets_through(number: int) -> bool:
    """Whether the checks pass with an issue in the code.

    Raises:
        RuntimeError: they do not run.
    """
    mutant = MUTANTS[number]
    code, said = checked([mutant.checks[0]], mutant)
    if code not in (PASSED, FAILED):
        raise RuntimeError(f"mutant {number}: pytest ended with {code}:\n{said[-4000:]}")
    word = "noticed" if code == FAILED else "NOT NOTICED"
    print(f"{number:2} {word:12} {mutant.file}: {mutant.before.strip().splitlines()[0][:80]}", flush=True)
    return code == PASSED


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]]))
