"""Runs tests on faulty code: each mutant in a fork of a process that has imported the libraries and nothing of the
product.

No file changes: the fork imports the faulty text in place of the module's own. Processes that a test starts (readers,
decoders) have the code as it is.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = (
    *("torch", "torch.distributed.fsdp", "torch.utils.data", "accelerate", "peft", "bitsandbytes", "torchao.optim"),
    *("diffusers", "diffusers.pipelines.cogvideo.pipeline_cogvideox_image2video", "diffusers.optimization"),
    *("diffusers.training_utils", "transformers.models.t5.modeling_t5", "safetensors.torch", "matplotlib.pyplot"),
    *("pydantic", "hydra", "rich.progress", "pebble", "pytest"),
)
"""What a process imports before it forks."""
TIMEOUT = 600
"""Seconds after which a test hangs, which counts as noticed."""
PASSED, FAILED = 0, 1
"""Exit codes of pytest."""
NO_MUTANT = 70


@dataclass(frozen=True)
class Fault:
    """In a file of the package, one text for another."""

    file: str
    before: str
    after: str

    def text(self, *, broken: bool = True) -> str:
        """The faulty module, or the module as it is.

        Raises:
            AssertionError: the text to replace does not occur exactly once.
        """
        text = (ROOT / "cogvx_exp" / self.file).read_text()
        assert text.count(self.before) == 1, f"{self.file} has {self.before!r} {text.count(self.before)} times"
        return text.replace(self.before, self.after) if broken else text


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
        search = [str(self.loader.path.parent)] if self.loader.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            fullname,
            self.loader.path,
            loader=self.loader,  # type: ignore[arg-type]
            submodule_search_locations=search,
        )


def insert(fault: Fault) -> None:
    """Makes this process import the faulty text in place of its module."""
    module = Path(fault.file).with_suffix("")
    parts = module.parent.parts if module.name == "__init__" else module.parts
    name = ".".join(("cogvx_exp", *parts))
    sys.meta_path.insert(0, _Finder(name, ROOT / "cogvx_exp" / fault.file, fault.text()))


def checked(tests: Sequence[str], fault: Fault | None) -> tuple[int, str]:
    """Exit code and output of tests in a fork, with a fault in the code or as it is."""
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os._exit(_run(tests, fault))
        code = _exit_code(child)
        output.seek(0)
        return code, output.read()


def _run(tests: Sequence[str], fault: Fault | None) -> int:
    import pytest

    try:
        if fault:
            insert(fault)
        arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", ""]
        return int(pytest.main([*arguments, *tests]))
    except AssertionError as error:
        print(error, flush=True)
        return NO_MUTANT


def _exit_code(child: int) -> int:
    """Of a process; of one that hangs or crashes, that of a test that fails."""
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
