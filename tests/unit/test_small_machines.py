"""Little shared memory, few cores, storage that has stopped: a run goes on, or ends when it is told to."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch
import torch.multiprocessing.reductions

from cogvx_exp.core import shared_memory
from cogvx_exp.core.errors import UserError
from cogvx_exp.data import decoding
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.distributed import waiting
from cogvx_exp.distributed.waiting import report_long_wait
from cogvx_exp.loading import data_loader
from cogvx_exp.training import stopping
from cogvx_exp.training.stopping import Stopped, StopRequest


def test_a_batch_is_sent_without_shared_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(
        latents=torch.randn(2, 3, 4, 5, 6).transpose(1, 2),
        noise=torch.randn(2, 4, 3, 5, 6),
        timesteps=torch.tensor([1, 999]),
        prompt_embeds=torch.randn(2, 7, 8).bfloat16(),
        samples=[3, 4],
        clips=["a", "b"],
        extras={"image_mask": torch.tensor([True, False])},
    )

    def share(*about: object) -> None:
        raise AssertionError("torch would share it")

    for name in ("_share_fd_cpu_", "_share_filename_cpu_"):
        monkeypatch.setattr(torch.UntypedStorage, name, share)
    received = pickle.loads(ForkingPickler.dumps(batch))
    assert (received.samples, received.clips, received.condition) == ([3, 4], ["a", "b"], None)
    assert torch.equal(received.extras["image_mask"], batch.extras["image_mask"])
    for name in ("latents", "noise", "timesteps", "prompt_embeds"):
        assert getattr(received, name).dtype == getattr(batch, name).dtype
        assert torch.equal(getattr(received, name), getattr(batch, name))


def _room(monkeypatch: pytest.MonkeyPatch, kib: int) -> None:
    """Lets /dev/shm have so much room."""
    answer = os.statvfs_result((4096, 4096, kib // 4, kib // 4, kib // 4, 0, 0, 0, 0, 255))
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda path: answer)


def test_readers_need_room_for_their_locks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _room(monkeypatch, 64)
    assert data_loader._possible(2) == 2
    assert capsys.readouterr().out == ""
    assert data_loader._possible(8) == 0
    assert "/dev/shm has 64 KiB free" in capsys.readouterr().out
    _room(monkeypatch, 64 << 10)
    monkeypatch.setattr(data_loader.os, "sched_getaffinity", lambda pid: set(range(4)))
    assert data_loader._possible(8) == 8
    assert "data.workers=8 with 4 cores" in capsys.readouterr().out
    assert data_loader._possible(4) == 4
    assert capsys.readouterr().out == ""


def test_a_decoding_pool_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    _room(monkeypatch, 4)

    def schedule(*about: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    with DecodingPool(1, 1.0) as pool:
        monkeypatch.setattr(decoding.ProcessPool, "schedule", schedule)
        with pytest.raises(UserError, match="/dev/shm has 4 KiB free"):
            list(pool.map(os.stat, [(".",)]))


@pytest.mark.parametrize("first", ["before the wait", "in the wait"])
def test_a_batch_that_never_comes_does_not_keep_a_run(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 1)
    stop, started = StopRequest(None), time.monotonic()
    with stop.listening(), stop.after_step():
        if first == "before the wait":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        with pytest.raises(Stopped, match="the last checkpoint"), stop.waiting():
            time.sleep(20)
    assert time.monotonic() - started < 5


def test_a_batch_that_comes_lets_the_step_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "PATIENCE", 1)
    stop = StopRequest(None)
    with stop.listening(), stop.after_step():
        with stop.waiting():
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1.2)
        assert stop()
        with pytest.raises(Stopped, match="in the middle of a step"):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_long_wait_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(waiting, "FIRST_MESSAGE", 0.2)
    monkeypatch.setattr(waiting, "NEXT_MESSAGE", 0.2)
    with report_long_wait("the others"):
        time.sleep(0.05)
    assert capsys.readouterr().out == ""
    with report_long_wait("the others"):
        time.sleep(0.7)
    assert capsys.readouterr().out.count("Waiting for the others (") in (2, 3)


def test_the_warning_of_torch_is_silenced(recwarn: pytest.WarningsRecorder, tmp_path: Path) -> None:
    from cogvx_exp.console.quiet import quiet_libraries

    quiet_libraries()
    torch.utils.data.DataLoader([0], num_workers=4096)
    assert not [one for one in recwarn if "worker" in str(one.message)]


def test_a_process_that_hears_nothing_ends_itself(tmp_path: Path) -> None:
    """Its main thread is in C, as in a collective operation whose other processes are gone."""
    script = (
        "import ctypes, os, signal, threading\n"
        "from cogvx_exp.training import stopping\n"
        "stopping.PATIENCE = 1\n"
        "stopping.before_exit.append(lambda stopped: print(stopped, flush=True))\n"
        "with stopping.StopRequest(None).listening():\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
        "    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)\n"
        "    libc.pthread_mutex_lock(mutex)\n"
        "    libc.pthread_mutex_lock(mutex)\n"  # for ever
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == stopping.EXIT_CODE, done.stderr
    assert "Stopped: SIGTERM was received; nothing is lost" in done.stdout
