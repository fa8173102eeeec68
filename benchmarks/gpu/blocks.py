"""The piece `blocks`: four transformer blocks of the real size, and the attention kernels alone, in many settings.

All blocks of a model are alike, so what a setting does to a step shows in four of them, within seconds and without the
weights of the others. All rows run in one process (`block_worker.py`).
"""

import json
import sys
import time

from benchmarks.gpu.results import FAILED
from benchmarks.gpu.runner import LEAST_SECONDS, Session, run_process
from benchmarks.gpu.table import BLOCKS
from benchmarks.targets import LORA

EIGHT_BIT = ("quant=int8 quant.compute=8bit", "quant=fp8 quant.compute=8bit")
QUANTIZED = (*(f"quant={name}" for name in ("int8", "fp8", "nf4")), *EIGHT_BIT)
CHECKPOINT, SELECTIVE = "memory.activations=checkpoint", "memory.activations=selective"
KERNELS = ("auto", "flash", "cudnn", "efficient")
ROWS = [
    *(f"attention={name}" for name in KERNELS),
    *(f"model={model} {LORA} {CHECKPOINT}" for model in ("5b", "2b", "1.5-5b")),
    *(f"model=5b {LORA} memory.activations={name}" for name in ("keep", "selective", "offload")),
    f"model=5b {LORA} memory=12gb",
    *(f"model=5b {LORA} {CHECKPOINT} attention={name}" for name in KERNELS[1:]),
    *(f"model=5b {LORA} {CHECKPOINT} {name}" for name in QUANTIZED),
    f"model=5b method=sft model.dtype=bfloat16 {CHECKPOINT}",
    f"model=5b method=dora method.rank=64 {CHECKPOINT}",
    *(f"model={model} {LORA} {CHECKPOINT} compile=blocks" for model in ("5b", "2b")),
    *(f"model=5b {LORA} memory.activations={name} compile=blocks" for name in ("selective", "keep")),
    *(
        f"model=5b {LORA} {activations} {name} compile=blocks"
        for activations in (CHECKPOINT, SELECTIVE)
        for name in EIGHT_BIT
    ),
    f"model=5b {LORA} {CHECKPOINT} attention=flex compile=blocks",
    f"model=5b method=sft model.dtype=bfloat16 {CHECKPOINT} compile=blocks",
]
"""Overrides of conf/train.yaml; a row with nothing but an attention kernel is about that kernel alone."""


def key_of(row: str) -> str:
    """What makes it the same measurement as another one."""
    return f"{BLOCKS}: {row}"


def run_blocks(session: Session, *, again: bool = False, only: str = "") -> list[str]:
    """Measures the rows that have no result yet, as long as there is time. Returns what is left.

    A row that ends the process fails, and the others go on in a new one.
    """
    done = set() if again else session.results.done()
    left = [row for row in ROWS if key_of(row) not in done and only in row]
    while left and session.seconds_left > LEAST_SECONDS:
        before = session.results.by_key()
        code = _run_rows(session, left)
        found = session.results.by_key()
        left = [row for row in left if found.get(key_of(row)) == before.get(key_of(row))]
        if code == 0 or not left or session.seconds_left < LEAST_SECONDS:
            break
        died = {"status": FAILED, "error": "the process died", "settings": left[0], **session.marks}
        session.results.add({"key": key_of(left[0]), "piece": BLOCKS, **died})
        left = left[1:]
    return left


def _run_rows(session: Session, rows: list[str]) -> int | None:
    asked = {"rows": rows, "out": str(session.results.file.parent), "cache": str(session.cache), "marks": session.marks}
    session.cache.mkdir(parents=True, exist_ok=True)
    file = session.cache / "blocks.json"
    file.write_text(json.dumps(asked | {"until": time.time() + session.seconds_left - LEAST_SECONDS}))
    return run_process([sys.executable, "-m", "benchmarks.gpu.block_worker", str(file)], session)
