"""What the check before a run compares a prediction with."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.launch import host
from cogvx_exp.launch import preflight as module
from tests.conftest import MakeJob


@pytest.mark.parametrize(
    ("free", "total", "budget", "said"),
    [
        (23.0, 23.6, 23.4, "the 23.6 GiB of this Card"),
        (23.6, 23.6, 23.6, "the 23.6 GiB of this Card"),
        (5.0, 23.6, 5.4, "the 5.4 GiB free of this Card's 23.6"),
    ],
)
def test_the_memory_that_is_free_counts(
    free: float, total: float, budget: float, said: str, monkeypatch: pytest.MonkeyPatch, make_job
) -> None:
    found: dict[str, Any] = {}

    def refuse(job: Any, overrides: Any, shapes: Any, budget: float, limit: str) -> Any:
        found.update(budget=budget, limit=limit)
        return SimpleNamespace(peak=1.0, host_kinds={"activations": 0.1})

    monkeypatch.setattr(module, "_gpu", lambda device: (free, total, "Card"))
    monkeypatch.setattr("cogvx_exp.estimate.command.refuse_if_too_large", refuse)
    module.preflight(make_job("memory.preflight=true", "device=cuda"), [], set())
    assert found["budget"] == pytest.approx(budget)
    assert found["limit"].startswith(said)


def test_a_known_card_is_told_the_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make_job: MakeJob, in_tmp: Path
) -> None:
    found = SimpleNamespace(peak=1.0, host_kinds={"activations": 0.1})
    monkeypatch.setattr("cogvx_exp.estimate.command.refuse_if_too_large", lambda *arguments: found)
    job = make_job("memory.preflight=true", "device=cuda", "validation=none", "hardware.price_per_hour=36000")
    for name, said in (("NVIDIA H100 80GB HBM3", "; time: about 0."), ("NVIDIA T4", "")):
        monkeypatch.setattr(module, "_gpu", lambda device, name=name: (79.0, 80.0, name))
        module.preflight(job, [], {Bucket(9, 32, 48)})
        out = capsys.readouterr().out
        assert f"Predicted peak memory: 1.0 of 79.4 GiB{said}" in out
        assert ("cost " in out) == bool(said)


def test_more_than_the_host_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "host_limit", lambda: 16 << 30)
    kinds = {"streamed blocks": 10.3, "activations": 3.0, "weights while decoding": 0.3, "optimizer states": 0.0}
    host.check_host(kinds, 1)
    with pytest.raises(UserError, match=r"2 processes, each 13\.6 GiB") as refused:
        host.check_host(kinds, 2)
    assert "exceeds the 16.0 GiB of this machine" in str(refused.value)
    assert "memory.stream_blocks=false memory.activations=checkpoint validation.offload=false would" in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": "1000\n"}, 1000),
        (
            {
                "proc/self/cgroup": "0::/slurm/job_1/step_0\n",
                "sys/fs/cgroup/slurm/job_1/memory.max": "2000",
                "sys/fs/cgroup/slurm/job_1/step_0/memory.max": "max",
            },
            2000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/docker/a\n4:memory:/docker/a\n",
                "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "3000",
            },
            3000,
        ),
    ],
)
def test_what_a_container_or_a_job_may_use(files: dict[str, str], limit: int | None, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert host.host_limit(tmp_path) == (limit or psutil.virtual_memory().total)
