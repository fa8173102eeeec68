"""Bytes of two processes on two software GPUs against their prediction: of the start, and of training."""

import json
from pathlib import Path

import pytest

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.prediction import predict
from tests.conftest import MakeJob
from tests.software_cuda.runs import run_on_cuda

WIDE = ["model.transformer.num_attention_heads=8", "model.transformer.attention_head_dim=64"]
WIDE += ["model.transformer.num_layers=8", "model.dtype=bfloat16", "memory.activations=checkpoint", "validation=none"]
SHARED = ["steps=2", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false", "data.decode_workers=1"]


@pytest.mark.cuda_matrix
@pytest.mark.parametrize("method", ["sft", "lora"])
@pytest.mark.parametrize("how", ["fsdp", "zero2", "zero3"])
def test_split_runs_take_what_is_predicted(how: str, method: str, tmp_path: Path, make_job: MakeJob) -> None:
    """At the start, too: the model is never whole on a device that has to split it."""
    settings = [*WIDE, *SHARED, f"method={method}", f"distributed={how}", "device=cuda"]
    outcome = run_on_cuda([*settings, f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run"], devices=2, races=0)
    assert outcome.code == 0, outcome.text[-3000:]
    counted = json.loads((tmp_path / "run" / "summary.json").read_text())["memory"]
    predicted = predict(make_job(*settings), {Bucket(9, 32, 48)}).phases
    for phase in ("before_training", "before_validation"):
        assert predicted[phase] == pytest.approx(counted[phase]["peak_gib"], rel=0.1), phase
