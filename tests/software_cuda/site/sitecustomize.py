"""Runs at the start of every process that has this folder on its PYTHONPATH."""

import os

if os.environ.get("SOFTWARE_CUDA"):
    from tests.software_cuda import on_import

    on_import.install_with_torch()
