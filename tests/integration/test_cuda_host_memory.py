"""Pinned memory that runs take on the software CUDA device, against what is predicted."""

from pathlib import Path

import pytest

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.trace.training_step import step_bytes
from cogvx_exp.model.offload import blocks
from tests.conftest import MakeJob
from tests.software_cuda.runs import Case, run_all

SHARED = [
    *("steps=2", "lr_scheduler=constant", "memory.preflight=false", "model.dtype=bfloat16"),
    *("data.workers=0", "data.decode_workers=1", "data.pin_memory=false", "model.transformer.num_layers=6"),
    *("model.transformer.num_attention_heads=8", "model.transformer.attention_head_dim=32"),
]
VIDEOS = ["validation.every=1", "validation.num_inference_steps=1", "validation.baseline=false"]
RUNS = {
    "12gb": ["memory=12gb", "validation=none"],
    "12gb with videos": ["memory=12gb", *VIDEOS],
    "24gb": ["memory=24gb", "validation=none"],
    "24gb with videos": ["memory=24gb", *VIDEOS],
    "cpu_offload": ["optim=cpu_offload", "method=sft", "validation=none"],
    "cpu_offload with videos": ["optim=cpu_offload", "method=sft", "memory=24gb", *VIDEOS],
}


@pytest.mark.cuda_matrix
def test_pinned_memory_is_as_predicted(make_job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a run, too: the trained model's blocks are freed before those of its base are loaded for videos."""
    monkeypatch.setattr(blocks, "WORTH_PARKING", 1)
    cases = []
    for number, settings in enumerate(RUNS.values()):
        folders = [f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/{number}"]
        cases.append(Case([*SHARED, *settings, *folders, "device=cuda"], park=1))
    wrong = {}
    for (name, settings), outcome in zip(RUNS.items(), run_all(cases), strict=True):
        assert outcome.code == 0, f"{name}: {outcome.text[-3000:]}"
        job = make_job(*SHARED, *settings)
        shape = Bucket(job.data.frame_buckets[0], job.data.height_buckets[0], job.data.width_buckets[0])
        host = step_bytes(job, shape, {shape}, "cuda").host
        predicted, counted = host.total() - host["optimizer states"], outcome.usage["pinned_peak"]
        if counted != pytest.approx(predicted, rel=0.1):
            wrong[name] = f"predicted {predicted}, counted {counted}, {dict(host)}"
    assert not wrong
