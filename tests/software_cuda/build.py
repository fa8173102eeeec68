"""Builds the library, once for each version of torch and of the sources."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
FLAGS = ("-shared", "-fPIC", "-std=c++20", "-O1", "-w", "-DTORCH_EXTENSION_NAME=_software_cuda")


class NoCompilerError(RuntimeError):
    """The library is not built, and there is no compiler to build it."""


def library() -> Path:
    """The built library. Of several processes that ask at the same time, one builds it, in about half a minute.

    Raises:
        NoCompilerError: there is no g++.
    """
    import torch

    sources = sorted(SOURCES.iterdir())
    sources_and_versions = [torch.__version__, sys.version, *FLAGS, *(path.read_text() for path in sources)]
    key = hashlib.blake2b("\0".join(sources_and_versions).encode(), digest_size=8).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cogvx-exp" / "software_cuda"
    built = cache / key / "_software_cuda.so"
    if built.exists():
        return built
    compiler = shutil.which("g++")
    if compiler is None:
        raise NoCompilerError("needs g++ to build the software CUDA device")
    built.parent.mkdir(parents=True, exist_ok=True)
    with (built.parent / "building").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not built.exists():
            _compile(compiler, built)
    return built


def _compile(compiler: str, built: Path) -> None:
    import torch
    from torch.utils.cpp_extension import include_paths

    libraries = Path(torch.__file__).parent / "lib"
    includes = [*include_paths(), sysconfig.get_paths()["include"]]
    unfinished = built.with_suffix(".unfinished")
    subprocess.run(
        [
            compiler,
            *FLAGS,
            *(f"-I{path}" for path in includes),
            str(SOURCES / "module.cpp"),
            *("-o", str(unfinished)),
            *(f"-L{libraries}", "-lc10", "-ltorch_cpu", "-ltorch_python", f"-Wl,-rpath,{libraries}"),
        ],
        check=True,
    )
    unfinished.rename(built)
