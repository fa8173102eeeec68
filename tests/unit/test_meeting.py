"""Where processes meet and work: names that do not resolve, leftovers of launches, folders made in the same second."""

import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from cogvx_exp.core.errors import UserError
from cogvx_exp.core.files import new_folder, write_json
from cogvx_exp.distributed import rendezvous, waiting
from cogvx_exp.distributed.process_group import rank_and_world_size
from cogvx_exp.distributed.rendezvous import check_first, wait_for_first
from cogvx_exp.runs.run_folder import RunFolder, write_status
from cogvx_exp.runs.sweep_folder import read_sweep_job
from cogvx_exp.train import main as train


@pytest.fixture
def free_port() -> int:
    with socket.socket() as door:
        door.bind(("", 0))
        return int(door.getsockname()[1])


@pytest.mark.parametrize("meet", [check_first, lambda *where: wait_for_first(*where, timeout=1)])
def test_a_name_that_cannot_be_resolved_is_told(meet) -> None:
    with pytest.raises(UserError, match=r"cannot resolve the name node-7.invalid .*; set SETTING"):
        meet("node-7.invalid", 29500, "SETTING")


def test_the_first_machine_is_waited_for_with_words(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "FIRST_MESSAGE", 0.1)
    monkeypatch.setattr(rendezvous, "SECONDS_BETWEEN_TRIES", 0.1)
    with pytest.raises(UserError, match=f"could not be reached at 127.0.0.1:{free_port} in 0.5 s"):
        wait_for_first("127.0.0.1", free_port, "SETTING", timeout=0.5)
    assert f"Waiting for the first machine at 127.0.0.1:{free_port} (Connection refused)" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", free_port)):
        wait_for_first("127.0.0.1", free_port, "SETTING", timeout=0.5)
        with pytest.raises(UserError, match="cannot be opened"):
            check_first("127.0.0.1", free_port, "SETTING")
    check_first("127.0.0.1", free_port, "SETTING")


@pytest.mark.parametrize(
    ("left", "place"),
    [
        ({"LOCAL_RANK": "0"}, None),
        ({"RANK": "0", "WORLD_SIZE": "1"}, None),
        ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
    ],
)
def test_leftovers_of_a_launch_place_nothing(left: dict, place: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert rank_and_world_size() == place
    if place is None:
        assert rendezvous.ignore_leftovers() == [name for name in left if name in rendezvous.PLACE]
        assert not any(name in os.environ for name in rendezvous.PLACE)


@pytest.mark.parametrize("left", [{"RANK": "x", "WORLD_SIZE": "2"}, {"RANK": "2", "WORLD_SIZE": "2"}])
def test_variables_without_sense_are_named(
    left: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert train(["model=tiny-5b"]) == 2
    assert f"RANK={left['RANK']} and WORLD_SIZE=2 are not a valid rank" in capsys.readouterr().err


def test_folders_made_at_the_same_time_differ(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: new_folder(tmp_path / "a" / "now"), range(40)))
    assert len(set(made)) == 40


@pytest.mark.parametrize(
    ("text", "expected"),
    [("steps:\n\t- 1\n", "broken.yaml, line 2, column 1 is not valid YAML"), ("a: [1\n", "broken.yaml, line 2")],
)
def test_a_broken_yaml_is_named(text: str, expected: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "experiment").mkdir()
    (in_tmp / "experiment" / "broken.yaml").write_text(text)
    assert train(["--config-dir", str(in_tmp), "experiment=broken"]) == 2
    assert expected in capsys.readouterr().err


def test_a_name_that_is_too_long_is_told(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(["model=tiny-5b", f"run_dir={'a' * 300}"]) == 2
    assert "File name too long (a name may have 255 bytes)" in capsys.readouterr().err


def test_a_jobs_time_is_its_own(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "3")
    write_status(run, "running")
    write_status(run, "failed", message="why")
    about = {"status": "failed", "time": datetime.now().isoformat()}
    write_json(run.status, about | {"started": (datetime.now() - timedelta(seconds=90)).isoformat()})
    assert read_sweep_job(run.path).seconds == pytest.approx(90, abs=1)
    write_json(run.status, {**about, "status": "running", "started": about["time"]})
    assert read_sweep_job(run.path).seconds == pytest.approx(0, abs=5)


FAKE_SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do [ "$1" = --kill-on-bad-exit=1 ] && kill=1; shift; done
for node in 0 1; do SLURM_NODEID=$node SLURM_PROCID=$node SLURM_NTASKS=2 setsid "$@" & pids[$node]=$!; done
worst=0; left=2
while [ $left -gt 0 ]; do
  wait -n; code=$?; left=$((left - 1)); [ $code -gt $worst ] && worst=$code
  [ $code -ne 0 ] && [ "$kill" ] && kill -- -${pids[0]} -${pids[1]} 2>/dev/null
done
exit $worst
"""


@pytest.mark.parametrize(
    ("ends", "code", "requeued"), [((75, 75), 75, True), ((0, 0), 0, False), ((2, 75), None, False)]
)
def test_the_slurm_script_goes_on_only_when_all_have_saved(
    ends: tuple[int, int], code: int | None, requeued: bool, in_tmp: Path
) -> None:
    """With commands of that name in Slurm's place: the second machine ends first, and srun ends all when one fails."""
    tools = in_tmp / "tools"
    tools.mkdir()
    (in_tmp / "outputs").mkdir()
    python = f'#!/bin/bash\ncase "$*" in *node_rank=0*) sleep 0.5; exit {ends[0]} ;; *) exit {ends[1]} ;; esac\n'
    scontrol = '#!/bin/bash\n[ "$1" = show ] && echo n1 || echo "$@" >>requeued\n'
    for name, text in {"srun": FAKE_SRUN, "python": python, "scontrol": scontrol}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    script = Path(__file__).parents[2] / "multirun_examples" / "slurm_train.sh"
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n"}
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode == code) if code is not None else done.returncode not in (0, 75), done.stderr
    assert (in_tmp / "requeued").exists() == requeued
    assert not requeued or (in_tmp / "requeued").read_text() == "requeue 7\n"
