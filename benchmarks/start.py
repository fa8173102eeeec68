"""Seconds from the command to the end of the first training step, and what is imported on the way.

    python -m benchmarks.start                      # the quickstart, with its clips already encoded
    python -m benchmarks.start optim=adamw8bit      # with other settings
    python -m benchmarks.start --compile            # compile=blocks: the first start, and the next one with its cache

Each start is a process of its own. CPU seconds depend less on what else the machine does. Imports are measured by
`python -X importtime` in one more process, which is slower.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

ROUNDS = 3
LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
SHOWN = 12
"""Packages listed."""


@dataclass(frozen=True)
class Start:
    """A start, until its first step was done."""

    seconds: float
    cpu_seconds: float
    modules: set[str]
    """Names of all imported modules."""
    log: str
    """What `python -X importtime` wrote."""


def main(settings: list[str]) -> None:
    """Prints the times."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["steps=1", "validation=none", "data.workers=0", f"cache_dir={folder}/cache", *settings]
        start(settings, folder)  # encodes
        rounds = [start(settings, folder) for _ in range(ROUNDS)]
        imports = seconds_by_package(start(settings, folder, "-X", "importtime").log)
    seconds, cpu = (
        statistics.median(values) for values in zip(*((r.seconds, r.cpu_seconds) for r in rounds), strict=True)
    )
    print(f"first step after {seconds:.1f} s, {cpu:.1f} s of CPU time; {len(rounds[0].modules):,} modules")
    total = sum(imports.values())
    print(f"imports: {total:.1f} s")
    for name, own in imports.most_common(SHOWN):
        print(f"  {name:<24} {own:5.2f} s  {own / total:4.0%}")


def compiled(settings: list[str]) -> None:
    """Prints the time of a start that compiles, and of one that finds the compiled code in `cache_dir`."""
    with tempfile.TemporaryDirectory() as folder:
        settings = ["steps=1", "validation=none", "data.workers=0", f"cache_dir={folder}/cache", *settings]
        eager = min(start(settings, folder).seconds for _ in range(2))  # the first one encodes
        first, again = (start([*settings, "compile=blocks"], folder).seconds for _ in range(2))
    print(f"first step after {eager:.1f} s without compile, {first:.1f} s with it, {again:.1f} s the second time")
    print(
        f"the second start takes {again / first:.2f} of the first, its compilation {(again - eager) / (first - eager):.2f}"
    )


def start(settings: list[str], folder: str, *options: str) -> Start:
    """Runs `cogvx_exp.train` in a process until its first step is done; `options` are those of Python."""
    run_dir = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, *options, "-m", "benchmarks.start", "--child", *settings, f"run_dir={run_dir}/run"]
    started = time.time()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    ended = json.loads(done.stdout.splitlines()[-1])
    return Start(ended["time"] - started, ended["cpu"], set(ended["modules"]), done.stderr)


def seconds_by_package(log: str) -> Counter[str]:
    """Seconds that importing the modules of each package took, without those that they import."""
    found: Counter[str] = Counter()
    for line in log.splitlines():
        if match := LINE.match(line):
            found[_package(match[2])] += int(match[1]) / 1e6
    return found


def _package(module: str) -> str:
    """Parts of torch are listed separately."""
    first, _, rest = module.partition(".")
    second = rest.partition(".")[0]
    return f"torch.{second}" if first == "torch" and second in ("_dynamo", "_inductor", "distributed") else first


def child(settings: list[str]) -> None:
    """Trains until the first step is done, and prints the times and modules."""
    from cogvx_exp import train
    from cogvx_exp.runs.metrics import Metrics

    def first_step(metrics: Metrics, **values: Any) -> None:
        ended = {"time": time.time(), "cpu": time.process_time(), "modules": list(sys.modules)}
        print(json.dumps(ended), flush=True)
        sys.stderr.flush()
        os._exit(0)

    Metrics.write = first_step  # type: ignore[method-assign]
    sys.argv[1:] = settings
    train.main()  # without arguments: a process that runs one command


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
    elif sys.argv[1:2] == ["--compile"]:
        compiled(sys.argv[2:])
    else:
        main(sys.argv[1:])
