"""Pinned memory that runs take on the software CUDA device, against what is predicted."""

from pathlib import Path

import pytest

from cogvx_exp.estimate.prediction import _configured_buckets
from cogvx_exp.estimate.training_step import step_bytes
from cogvx_exp.model import blocks
from tests.conftest import MakeJob
from tests.software_cuda.runs import Case, run_all

WIDE = ["model.transformer.num_attention_heads=8", "model.transformer.attention_head_dim=32"]
DEEP = ["model.transformer.num_layers=6", "model.dtype=bfloat16", "data.pin_memory=false"]
VALIDATION = ["validation.every=1", "validation.num_inference_steps=1"]
BASE = ["steps=2", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false", "data.decode_workers=1"]
RUNS = {
    "12gb": ["memory=12gb", "validation=none"],
    "12gb, with videos at the end": ["memory=12gb", *VALIDATION, "validation.baseline=false"],
    "24gb": ["memory=24gb", "validation=none"],
    "24gb, videos": ["memory=24gb", *VALIDATION],
    "cpu_offload": ["optim=cpu_offload", "method=sft", "validation=none"],
    "cpu_offload, videos": ["optim=cpu_offload", "method=sft", "memory=24gb", *VALIDATION],
}


@pytest.mark.cuda_matrix
def test_pinned_memory_is_as_predicted(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With videos at the end, too: the trained model's blocks are freed before those of its base are loaded again."""
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    cases = [
        Case([*BASE, *WIDE, *DEEP, *settings, "device=cuda", f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path / name}"], park=1)
        for name, settings in RUNS.items()
    ]  # fmt: skip
    for (name, settings), outcome in zip(RUNS.items(), run_all(cases), strict=True):
        assert outcome.code == 0, f"{name}: {outcome.text[-3000:]}"
        job = make_job(*BASE, *WIDE, *DEEP, *settings)
        (shape,) = _configured_buckets(job)
        host = step_bytes(job, shape, {shape}, "cuda").host
        predicted = host.total() - host["optimizer states"]
        print(name, {k: v for k, v in host.items() if v}, outcome.usage["pinned_peak"])
        assert outcome.usage["pinned_peak"] == pytest.approx(predicted, rel=0.1), f"{name}: {dict(host)}"
