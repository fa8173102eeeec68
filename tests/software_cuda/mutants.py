"""Takes synchronizations and placements out of the product one by one, and expects the checks to notice.

    python -m tests.software_cuda.mutants [NUMBER ...]

Works on a copy. The outcome is in docs/gpu.md.
"""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.software_cuda import ROOT, environment

HOST, BLOCKS, OFFLOADED = "model/host_memory.py", "model/blocks.py", "training/offloaded.py"
ZERO, DEVICE, QUANT, OFF = "training/deepspeed_parts.py", "model/device.py", "model/quantize.py", "model/offload.py"
STREAMS, PRODUCT = ("tests/software_cuda/stream_checks.py", 1), ("tests/software_cuda/product_checks.py", 2)


@dataclass(frozen=True)
class Mutant:
    """A fault: in a file of the package, one text for another."""

    file: str
    before: str
    after: str
    checks: tuple[str, int] = STREAMS
    """The file that should notice, and how many devices it needs."""


MUTANTS = [
    Mutant(HOST, "self._stream.wait_stream(torch.cuda.current_stream(self.device))", "pass"),
    Mutant(HOST, "tensor.record_stream(self._stream)  #", "pass  #"),
    Mutant(HOST, "current.wait_event(parked.ready)", "pass"),
    Mutant(HOST, "tensor.record_stream(current)", "pass"),
    Mutant(HOST, "parked.ready = self._stream.record_event()", "pass"),
    Mutant(HOST, "parked.ready = self._stream.record_event()", "parked.ready = torch.cuda.Event()"),
    Mutant(HOST, "non_blocking=True)\n        if tensor.is_cuda:", "non_blocking=False)\n        if False:"),
    Mutant(OFFLOADED, "self.stream.synchronize()", "pass"),
    Mutant(BLOCKS, "weight.data = self._host.take(parked)", "weight.data = parked.on_host"),
    Mutant(BLOCKS, "weight.data = self._host.take(parked)", "self._host.take(parked)"),
    Mutant(BLOCKS, "parameter.data = parameter.data.to(host.device)", "pass"),
    Mutant(BLOCKS, "return self._host.take(saved)", "return saved.on_host"),
    Mutant(BLOCKS, "register_multi_grad_hook(inputs, lambda gradients: self._leave(index))", "self._leave(index)"),
    Mutant(BLOCKS, "dtype=weight.dtype, device=self._host.device", "dtype=weight.dtype"),
    Mutant(ZERO, "device=parameter.device if fused else None", "device=None", PRODUCT),
    Mutant(DEVICE, "torch.cuda.set_device(gpu)", "pass", PRODUCT),
    Mutant(DEVICE, "torch._C._accelerator_setAllocatorSettings(ROUND_PINNED_MEMORY)", "pass", PRODUCT),
    Mutant(DEVICE, "if first != rank:", "if False:", PRODUCT),
    Mutant(OFF, "tensor.detach() if id(tensor) in trained else tensor.to(target)", "tensor.to(target)", PRODUCT),
    Mutant(OFF, "parameter.copy_(weight)", "pass", PRODUCT),
    Mutant(OFF, "parameter.untyped_storage().resize_(0)", "pass", PRODUCT),
    Mutant(OFF, "        move(device)", "        pass", PRODUCT),
    Mutant(QUANT, "block.to(compute.device)", "pass", PRODUCT),
    Mutant(QUANT, "layer.forward = partial(_packed_linear, layer)", "pass", PRODUCT),
    Mutant(QUANT, "gradient @ weight).to(ctx.dtype)", "gradient @ weight)", PRODUCT),
]  # fmt: skip


def noticed(mutant: Mutant) -> bool:
    """Whether the checks fail with the fault in the code."""
    with TemporaryDirectory() as folder:
        for part in ("cogvx_exp", "conf", "tests"):
            shutil.copytree(ROOT / part, Path(folder) / part, ignore=shutil.ignore_patterns("__pycache__"))
        file = Path(folder) / "cogvx_exp" / mutant.file
        text = file.read_text()
        assert text.count(mutant.before) == 1, f"{mutant.file} has no longer {mutant.before}"
        file.write_text(text.replace(mutant.before, mutant.after))
        checks, devices = mutant.checks
        env = environment(devices)
        env["PYTHONPATH"] = env["PYTHONPATH"].replace(str(ROOT), folder)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", checks]
        done = subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode == 1


def main(numbers: list[int]) -> int:
    """Tries mutants, and returns how many got through."""
    through = 0
    for number in numbers or range(len(MUTANTS)):
        mutant = MUTANTS[number]
        found = noticed(mutant)
        through += not found
        print(
            f"{number:2} {'noticed' if found else 'NOT NOTICED':12} {mutant.file}: {mutant.before.strip()[:80]}",
            flush=True,
        )
    return through


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]]))
