"""Writes docs/measured.md, and the measured cells of docs/memory.md, from the results."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.gpu.blocks import CHECKPOINT, EIGHT_BIT, ROWS, key_of
from benchmarks.gpu.machine import ROOT
from benchmarks.gpu.results import MEASURED, NO_MEMORY, Result, Results, machines
from benchmarks.gpu.table import TESTS, TIMED, WARM_UP, Measurement, all_measurements, pieces_of, settings_key
from benchmarks.targets import LORA

PHASES = {"without": ("before_training", "training"), "with": ("before_training", "training", "validation")}
"""Of training without and with validations; a cell has the highest of its phases."""
MEASURED_PAGES = ("measured.md", "memory.md", "speed.md")
CHECKPOINTED = f"model=5b {LORA} {CHECKPOINT}"
RATIOS = {
    **{f"memory.activations={name}": f"model=5b {LORA} memory.activations={name}" for name in ("keep", "selective")},
    CHECKPOINT: CHECKPOINTED,
    "memory.activations=offload": f"model=5b {LORA} memory.activations=offload",
    "memory.stream_blocks=true": f"model=5b {LORA} memory=12gb",
    **{f"attention={name}": f"{CHECKPOINTED} attention={name}" for name in ("flash", "cudnn", "efficient")},
    **{f"quant={name}": f"{CHECKPOINTED} quant={name}" for name in ("nf4", "int8", "fp8")},
    **{name: f"{CHECKPOINTED} {name}" for name in (*EIGHT_BIT, "compile=blocks")},
    "method=sft": f"model=5b method=sft model.dtype=bfloat16 {CHECKPOINT}",
    "method=dora": f"model=5b method=dora method.rank=64 {CHECKPOINT}",
}
"""Rows of docs/speed.md by their settings, with the block whose time they show."""
MAIN_PACKAGES = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "torchao")

INTRODUCTION = """\
# Measured on a GPU

Written by `python -m benchmarks.gpu --docs` from the results of `python -m benchmarks.gpu`; an empty cell has not been
measured. Weights and clips are random and of the models' native size: 49 frames of 480x720, 81 frames of
768x1360 for 1.5; batch size 1 unless the settings say otherwise. `python -m benchmarks.gpu --list` lists what is left to measure.

Time is the median of {timed} steps after {warm_up}. MFU counts the FLOPs of a step without recomputation.
Memory is the peak in GiB, including one sampled video in the columns "with": allocated and reserved by torch's allocator, and
the process's total with CUDA's context. Pinned is host memory.
"""


def write_docs(results: Results, folder: Path, *, simulated: bool = False) -> list[Path]:
    """Writes the pages into `folder`, which is docs/, or a copy of it.

    Args:
        results: those of real GPUs count, or with `simulated` those of the software device.
        folder: has `MEASURED_PAGES`.
        simulated: for the dry run.
    """
    found = {key: result for key, result in results.by_key().items() if result.get("simulated", False) == simulated}
    writers = (lambda page, results: _page(results), with_measured_cells, with_ratios)
    pages = [folder / name for name in MEASURED_PAGES]
    for page, write in zip(pages, writers, strict=True):
        old = page.read_text(encoding="utf-8") if page.exists() else ""
        page.write_text(write(old, found), encoding="utf-8")
    return pages


def with_ratios(page: str, results: Mapping[str, Result]) -> str:
    """The page with the last cells of the rows of `RATIOS` filled in: their time relative to `CHECKPOINTED`."""
    times = {name: results.get(key_of(row), {}).get("step_ms") for name, row in RATIOS.items()}
    first, lines = results.get(key_of(CHECKPOINTED), {}).get("step_ms"), []
    for line in page.split("\n"):
        named = re.match(r"\| `([^`]+)`", line)
        if named and named[1] in RATIOS:
            time = times[named[1]]
            line = line.removesuffix(" |").rpartition(" |")[0] + (
                f" | {time / first:.2f} |" if time and first else " | |"
            )
        lines.append(line)
    return "\n".join(lines)


def with_measured_cells(page: str, results: Mapping[str, Result]) -> str:
    """The page with the cells of its columns `without: measured`, `measured with` and so on filled in.

    The first cell of a row has the settings.
    """
    lines, columns = [], {}
    for line in page.split("\n"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            columns = {}
        elif not columns:
            columns = {index: _which(cell) for index, cell in enumerate(cells) if "measured" in cell}
        elif cells[0].startswith("`") and len(cells) > max(columns):
            result = results.get(settings_key(cells[0].strip("`")))
            for index, which in columns.items():
                cells[index] = _peak(result, which)
            line = "| " + " | ".join(cells) + " |"
        lines.append(line)
    return "\n".join(lines)


def _which(header: str) -> str:
    return "without" if "without" in header else "with"


def _peak(result: Result | None, which: str, count: str = "allocated") -> str:
    """GiB of one column; empty if it was not measured."""
    memory = (result or {}).get("memory", {})
    if PHASES[which][-1] in memory:
        return f"{max(memory[phase][count] for phase in PHASES[which] if phase in memory):.2f}"
    return "OOM" if result and result["status"] == NO_MEMORY else ""


def _page(results: Mapping[str, Result]) -> str:
    measurements = all_measurements()
    parts = [INTRODUCTION.format(timed=TIMED, warm_up=WARM_UP), _machines(results.values())]
    parts += ["## blocks\n", BLOCKS_INTRODUCTION, _table(BLOCKS_HEADER, (_block_row(row, results) for row in ROWS))]
    for piece in pieces_of(measurements)[2:]:
        rows = [row for row in measurements if row.piece == piece]
        parts += [f"## {piece}\n", _table(HEADER, (_row(row, results.get(row.key)) for row in rows))]
    return "\n".join([*parts, *_tests(results.values())])


BLOCKS_INTRODUCTION = """\
Milliseconds of one transformer block at the model's native size, as a quarter of a random model of four, without the
optimizer; in the first rows, of an attention kernel alone with the 5b's heads and tokens. TFLOP/s do not count recomputation. GiB:
the peak of the whole small model.
"""
BLOCKS_HEADER = ["settings", "forward", "forward and backward", "TFLOP/s", "GiB", "note"]
HEADER = ["settings", "s per step", "MFU", "allocated", "allocated, with", "reserved", "process", "pinned", "note"]


def _row(measurement: Measurement, result: Result | None) -> list[str]:
    label = f"`{measurement.settings}`" + (", the Factory's script" if measurement.factory else "")
    if result is None:
        return [label, *[""] * (len(HEADER) - 1)]
    time = f"{result['step_seconds']:.2f}" if "step_seconds" in result else ""
    mfu = f"{100 * result['mfu']:.1f} %" if "mfu" in result else ""
    widest = "with" if "validation" in result.get("memory", {}) else "without"
    others = [_peak(result, widest, count) for count in ("reserved", "process", "pinned")]
    with_video = _peak(result, "with") if measurement.validation else ""
    why = f"{result['status']}: {result.get('error', '')}"
    note = result.get("note", "") if result["status"] == MEASURED else why
    return [label, time, mfu, _peak(result, "without"), with_video, *others, note.replace("|", "/")[:200]]


def _block_row(row: str, results: Mapping[str, Result]) -> list[str]:
    result = results.get(key_of(row))
    if result is None or result["status"] != MEASURED:
        note = f"{result['status']}: {result['error']}"[:200].replace("|", "/") if result else ""
        return [f"`{row}`", "", "", "", "", note]
    times = [f"{result[name]:.1f}" for name in ("forward_ms", "step_ms")]
    return [f"`{row}`", *times, f"{result['tflops']:.0f}", f"{result['allocated']:.1f}", ""]


def _machines(results: Iterable[Result]) -> str:
    """A list of what the results come from."""
    lines = []
    for about in machines(result for result in results if "machine" in result):
        packages = about["packages"]
        versions = ", ".join(f"{name} {packages[name]}" for name in MAIN_PACKAGES if name in packages)
        lines.append(
            f"- {about['gpus']} x {about['device']}, {about['gpu_gib']} GiB, driver {about['driver']}, CUDA {about['cuda']}; "
            f"{about['cores']} cores, {about['host_gib']} GiB; Python {about['python']}, {versions}; "
            f"revision {', '.join(revision or 'unknown' for revision in about['revisions'])}"
        )
    return "\n".join(lines or ["Nothing has been measured yet."]) + "\n"


def _tests(results: Iterable[Result]) -> list[str]:
    """The tests in numbers, and by name those that did not pass."""
    tests = [result for result in results if result["piece"] == TESTS]
    if not tests:
        return []
    counts = {status: sum(test["status"] == status for test in tests) for status in ("passed", "failed", "skipped")}
    parts = ["## Tests\n", ", ".join(f"{count} {status}" for status, count in counts.items()) + ".\n"]
    others = [test for test in tests if test["status"] != "passed"]
    rows = [[f"`{test['key']}`", test["status"], test.get("error", "").replace("|", "/")[:200]] for test in others]
    return [*parts, _table(["test", "", "why"], rows)] if rows else parts


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


DOCS = ROOT / "docs"
