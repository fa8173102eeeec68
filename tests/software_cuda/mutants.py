"""Takes synchronizations and placements out of the product one by one, and expects the checks to notice.

    python -m tests.software_cuda.mutants [NUMBER ...]

The outcome is in docs/gpu.md.
"""

import subprocess
import sys
from dataclasses import dataclass

from tests.software_cuda import ROOT, environment
from tests.software_cuda.training_mutants import FAULTS

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
    Mutant(QUANT, "ctx.layer.weight.dequantize()", "ctx.layer.weight.dequantize().cpu()", PRODUCT),
]  # fmt: skip


MUTANTS += [Mutant(*fault, (checks, 2)) for checks, faults in FAULTS.items() for fault in faults]


def main(numbers: list[int]) -> int:
    """Tries mutants, and returns how many got through."""
    through = 0
    for devices in (1, 2):
        own = [str(number) for number in numbers or range(len(MUTANTS)) if MUTANTS[number].checks[1] == devices]
        if own:
            command = [sys.executable, "-m", "tests.software_cuda.mutation", *own]
            through += subprocess.run(command, env=environment(devices), cwd=ROOT, check=False).returncode
    return through


if __name__ == "__main__":
    sys.exit(main([int(text) for text in sys.argv[1:]]))
