"""Training with two processes: the same numbers, checkpoints that fit any of them, and an end when one ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from cogvx_exp.core.files import read_json
from cogvx_exp.runs.checkpoint_folder import newest_checkpoint
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import RunFolder, read_status
from cogvx_exp.runs.sweep_folder import job_folders, read_sweep_job
from tests.conftest import extended, needs_compiler
from tests.entry import train as main
from tests.entry import with_twin

SETTINGS = ["steps=4", "checkpoint.every=2", "lr_scheduler=constant", "data.workers=0", "data.holdout=2"]
SETTINGS += ["validation.num_inference_steps=1", "validation.baseline=false", "device=cpu"]
SETTINGS += ["validation.num_videos=3", "+validation.scores.brightness.target=numpy.mean"]


METHODS = {"lora": ["method=lora"], "sft": ["method=sft"], "sft, averaged": ["method=sft", "ema_decay=0.9"]}


def values(run: Path, key: str = "loss") -> list[float]:
    return [line[key] for line in read_metrics(RunFolder(run).metrics)]


def close(ours: Path, theirs: Path) -> None:
    """All tensors together agree to 1e-5 of their size."""
    mine, expected = load_file(ours), load_file(theirs)
    assert mine.keys() == expected.keys()
    squares = [float((mine[name] - tensor).double().square().sum()) for name, tensor in expected.items()]
    assert sum(squares) <= 1e-10 * sum(float(tensor.double().square().sum()) for tensor in expected.values())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> dict[str, Path]:
    """The runs of one process, with twice the accumulation."""
    runs = {}
    for what, more in METHODS.items():
        runs[what] = tmp_path_factory.mktemp("alone") / "run"
        settings = [*SETTINGS, *more, "gradient_accumulation=4", f"cache_dir={shared_cache}"]
        assert main([*settings, f"run_dir={runs[what]}"]) == 0
    return runs


@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("ddp", "lora"),
        ("fsdp", "sft, averaged"),
        *(extended(*case) for case in (("fsdp", "lora"), ("zero2", "sft"), ("zero3", "lora"))),
    ],
)
def test_two_processes_give_the_numbers_of_one(
    how: str, method: str, alone: dict[str, Path], tmp_path: Path, shared_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also the checkpoint, with the running average if there is one, and the export, which then is the average.

    The first process is profiled meanwhile.
    """
    needs_compiler(how)
    run = RunFolder(tmp_path / "run")
    settings = [*SETTINGS, *METHODS[method], f"cache_dir={shared_cache}", f"run_dir={run.path}"]
    profile = ["profile=true", "profile.skip=1", "profile.record=1"]
    assert main([*settings, *profile, "gradient_accumulation=2", f"distributed={how}"]) == 0
    assert "Profiling process 0 of 2" in capfd.readouterr().out
    parts = {row["part"]: row for row in read_json(run.profile / "parts.json")["rows"]}
    assert min(parts[name]["ms"] for name in ("exchange", "attention", "feed-forward", "optimizer")) > 0
    expected = RunFolder(alone[method])
    assert values(run.path) == pytest.approx(values(expected.path), rel=1e-5)
    assert values(run.path, "grad_norm") == pytest.approx(values(expected.path, "grad_norm"), rel=1e-4)
    held_out = [read_metrics(one.held_out)[-1]["loss"] for one in (run, expected)]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)
    scores = [read_metrics(folder.scores)[-1]["brightness"] for folder in (run, expected)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-2)
    of_videos = [read_json(path)["scores"]["brightness"] for path in run.validation(4).glob("*.json")]
    assert scores[0] == pytest.approx(sum(of_videos) / 3), "of the videos of both processes"
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        close(run.checkpoint(4) / file, expected.checkpoint(4) / file)
    result = (
        "pytorch_lora_weights.safetensors" if method == "lora" else "transformer/diffusion_pytorch_model.safetensors"
    )
    close(run.export / result, expected.export / result)
    assert read_status(run.path)["status"] == "finished"
    # One process goes on from the checkpoint in the middle, where two have been.
    shutil.rmtree(run.checkpoint(4))
    assert main([*settings, "gradient_accumulation=4", "resume=latest"]) == 0
    assert values(run.path) == pytest.approx(values(expected.path), rel=1e-5)


@pytest.mark.parametrize(
    ("how", "method"), [("zero2", "lora"), extended("zero3", "lora"), extended("fsdp", "sft, averaged")]
)
def test_two_processes_go_on_where_one_stopped(
    how: str, method: str, alone: dict[str, Path], tmp_path: Path, shared_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needs_compiler(how)
    run = tmp_path / "run"
    shutil.copytree(alone[method], run)
    shutil.rmtree(RunFolder(run).checkpoint(4))
    settings = [*SETTINGS, *METHODS[method], f"cache_dir={shared_cache}", f"run_dir={run}", "resume=auto"]
    assert main([*settings, "gradient_accumulation=2", f"distributed={how}"]) == 0
    assert values(run) == pytest.approx(values(alone[method]), rel=1e-5)
    close(
        RunFolder(run).checkpoint(4) / "optimizer.safetensors",
        RunFolder(alone[method]).checkpoint(4) / "optimizer.safetensors",
    )
    assert "1 processes, now 2" in capfd.readouterr().out


def start(*settings: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "cogvx_exp.train", *with_twin(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_with_ctrl_c)


def _with_ctrl_c() -> None:
    """As in a terminal. Where the tests are a shell's background job, SIGINT is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(read_metrics(RunFolder(run).metrics)) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.1)
    return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", [extended("ddp"), extended("fsdp"), extended("zero2")])
def test_compiled_blocks_train_the_same(how: str, tmp_path: Path, shared_cache: Path) -> None:
    settings = ["steps=3", "lr_scheduler=constant", "validation=none", "data.workers=0", "device=cpu"]
    settings += [f"distributed={how}", "distributed.processes=2", f"cache_dir={shared_cache}"]
    for compiled in ("false", "blocks"):
        assert main([*settings, f"compile={compiled}", f"run_dir={tmp_path / compiled}"]) == 0
    assert values(tmp_path / "blocks") == pytest.approx(values(tmp_path / "false"), rel=1e-5)


LONG = ["steps=2000", "validation=none", "data.workers=0", "checkpoint.every=1000"]


@pytest.mark.parametrize(
    ("how", "number"),
    [extended("", signal.SIGUSR1), ("ddp", signal.SIGTERM), ("-m", signal.SIGUSR2), extended("", signal.SIGTERM)],
)
def test_a_warned_run_saves_and_resumes(how: str, number: signal.Signals, in_tmp: Path, shared_cache: Path) -> None:
    """SIGUSR2 is submitit's, for a job of a sweep."""
    run = RunFolder(in_tmp / "run")
    settings = [*LONG, f"run_dir={run.path}", f"cache_dir={shared_cache}", "resume=auto"]
    settings += {"": [], "ddp": ["distributed=ddp"], "-m": ["-m", "seed=1"]}[how]
    process = start(*settings)
    wait_for_step(run.path, 3, process)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, (out, err)
    checkpoint, _ = newest_checkpoint(run.path)
    assert checkpoint is not None
    done = checkpoint.step
    assert done == len(values(run.path))
    assert "Stopped after step" in out
    assert read_status(run.path)["status"] == "stopped"


def test_a_second_warning_ends_a_run_at_once(tmp_path: Path, shared_cache: Path) -> None:
    """Also while the first one has not been noticed yet: the worker that should notice it stands still."""
    process = start(*LONG, "distributed=ddp", f"run_dir={tmp_path / 'run'}", f"cache_dir={shared_cache}")
    wait_for_step(tmp_path / "run", 2, process)
    others = psutil.Process(process.pid).children(recursive=True)
    for other in others:
        other.suspend()
    for _ in range(2):
        process.terminate()
        time.sleep(0.5)
    process.communicate(timeout=30)
    assert process.returncode == 1
    assert gone([other.pid for other in others], 10)


def test_time_that_is_up_stops_a_run(tmp_path: Path, shared_cache: Path) -> None:
    run = RunFolder(tmp_path / "run")
    settings = [*LONG, f"run_dir={run.path}", f"cache_dir={shared_cache}", "resume=auto"]
    for number in (1, 2):
        with pytest.raises(SystemExit) as stopped:
            main([*settings, "checkpoint.max_minutes=0.00001"])
        assert stopped.value.code == 75
        assert len(values(run.path)) == number, "a step is done each time"


@pytest.mark.parametrize("number", [extended(signal.SIGINT), signal.SIGKILL])
def test_no_process_is_left_when_the_parent_ends(number: signal.Signals, tmp_path: Path, shared_cache: Path) -> None:
    run = tmp_path / "run"
    process = start(*LONG, "distributed=ddp", f"run_dir={run}", f"cache_dir={shared_cache}")
    wait_for_step(run, 2, process)
    others = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert len(others) >= 3, "torchrun and two workers"
    os.kill(process.pid, number)
    assert gone([process.pid, *others], 10)


def test_a_crash_of_one_process_ends_all_with_its_own_words(
    tmp_path: Path, shared_cache: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """In a sweep, whose next job runs. The second process's own sitecustomize makes its third step fail."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1' and 'doomed' in ' '.join(open('/proc/self/cmdline').read().split(chr(0))):\n"
        "    import builtins, torch\n"
        "    calls = []\n"
        "    original = torch.manual_seed\n"
        "    def fail(seed):\n"
        "        calls.append(seed)\n"
        "        if len(calls) > 40: raise RuntimeError('the second process is out of luck')\n"
        "        return original(seed)\n"
        "    torch.manual_seed = fail\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"}
    command = [
        sys.executable,
        "-m",
        "cogvx_exp.train",
        "-m",
        *with_twin(["distributed=ddp", "steps=50", "validation=none"]),
    ]
    command += ["data.workers=0", f"cache_dir={shared_cache}", f"run_dir={tmp_path}/doomed,{tmp_path}/lucky"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stderr
    assert "the second process is out of luck" in done.stderr
    assert "process 1 failed" in done.stderr
    assert "1 of 2 jobs failed (0)" in done.stderr
    (sweep,) = (tmp_path / "outputs" / "multirun").iterdir()
    assert [read_sweep_job(folder).status for folder in job_folders(sweep)] == ["failed", "finished"]
    assert read_status(tmp_path / "doomed")["status"] == "failed"
    assert read_status(tmp_path / "lucky")["status"] == "finished"
    assert json.loads((tmp_path / "lucky" / "summary.json").read_text())["processes"] == 2


def test_started_by_torchrun_it_joins_in(tmp_path: Path, shared_cache: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [
        "-m",
        "cogvx_exp.train",
        *with_twin([]),
        "steps=2",
        "validation=none",
        "data.workers=0",
        f"cache_dir={shared_cache}",
    ]
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert wrong.returncode != 0
    assert "use distributed=ddp" in wrong.stderr
    done = subprocess.run([*command, "distributed=ddp"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = (path for path in (tmp_path / "outputs").iterdir() if path.is_dir())
    assert len(values(run)) == 2


def test_two_machines_meet_at_a_rendezvous(tmp_path: Path, shared_cache: Path) -> None:
    """Both are this one. The second comes when the first has begun the run's folder."""
    shared = [
        "steps=2",
        "validation=none",
        "data.workers=0",
        f"cache_dir={shared_cache}",
        f"run_dir={tmp_path / 'run'}",
    ]
    shared += ["distributed=ddp", "distributed.processes=1", "distributed.nodes=2"]
    shared += ["distributed.rendezvous=127.0.0.1:29411"]
    first = start(*shared, "distributed.node_rank=0")
    while not (tmp_path / "run" / "config.yaml").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    nodes = [first, start(*shared, "distributed.node_rank=1")]
    ends = [node.communicate(timeout=120) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["processes"] == 2
