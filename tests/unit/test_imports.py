"""A process that runs one command imports what that command uses."""

import subprocess
import sys

UNUSED = "bitsandbytes torchao scipy matplotlib.pyplot cogvx_exp.profiling.recorder"


def run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_plain_run_imports_neither_optional_packages_nor_matplotlib_nor_a_profiler() -> None:
    """The optimizers of those packages can still be imported later."""
    run(
        "import sys\n"
        "from cogvx_exp.core.imports import expect_one_command\n"
        "from cogvx_exp.console.quiet import quiet_libraries\n"
        "expect_one_command()\n"
        "quiet_libraries()\n"
        "import cogvx_exp.training.run\n"
        f"found = [name for name in '{UNUSED}'.split() if name in sys.modules]\n"
        "assert not found, found\n"
        "from bitsandbytes.optim import AdamW8bit\n"
        "from torchao.optim import AdamW4bit\n"
    )


def test_a_quantized_base_finds_its_packages() -> None:
    run(
        "from cogvx_exp.core.imports import expect_one_command\n"
        "from cogvx_exp.console.quiet import quiet_libraries\n"
        "expect_one_command()\n"
        "quiet_libraries('nf4')\n"
        "import peft\n"
        "assert peft.tuners.lora.Linear4bit and peft.import_utils.is_torchao_available()\n"
    )
