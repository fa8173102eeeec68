"""How long processes wait for each other: in a step as long as `distributed.timeout`, elsewhere much longer."""

import os
import socket
import subprocess
import sys

SCRIPT = """
import time, os, torch
from cogvx_exp.distributed.process_group import init_process_group
processes = init_process_group(False, 4)
rank = torch.tensor([float(processes.rank)])
assert processes.start_all_gather(rank)().tolist() == [[0.0], [1.0]]
if processes.rank == 1:
    time.sleep(6)  # encodes, or writes
processes.barrier()
if processes.rank == 1:
    time.sleep(600)  # hangs
try:
    processes.start_all_gather(rank)()
except RuntimeError as error:
    print("gave up", error)
os._exit(0)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_a_step_has_the_timeout_that_was_set_and_the_rest_has_not() -> None:
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT], env={**os.environ, **shared, "RANK": str(rank)}, stdout=subprocess.PIPE
        )
        for rank in range(2)
    ]
    try:
        out, _ = processes[0].communicate(timeout=120)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert b"gave up" in out
