"""A worker of a run with several processes, watched by `learning_probe.py`."""

import runpy

from benchmarks.learning_probe import install

if __name__ == "__main__":
    install()
    runpy.run_module("cogvx_exp.launch.workers.train", run_name="__main__", alter_sys=True)
