"""Takes synchronizations and placements out of the product one by one, and expects the checks to notice.

    python -m tests.software_cuda.mutants [NUMBER ...]

The outcome is in docs/gpu.md.
"""

import subprocess
import sys
from dataclasses import dataclass

from tests.mutation import Fault
from tests.software_cuda import ROOT, environment
from tests.software_cuda.training_mutants import ISSUES

HOST, BLOCKS, STREAMED = "model/offload/host_memory.py", "model/offload/blocks.py", "model/offload/streamed_blocks.py"
ZERO, DEVICE, QUANT, OFF = (
    "strategies/deepspeed_config.py",
    "model/device.py",
    "model/quantization/quantize.py",
    "model/offload/module.py",
)
OFFLOADED, PREFETCH = "optim/offloaded.py", "loading/prefetch.py"
NOT_AHEAD = "            yield batch\n            upcoming = _Upcoming(batches, host)"
STREAMS, PRODUCT = ("tests/software_cuda/stream_checks.py", 1), ("tests/software_cuda/product_checks.py", 2)


@dataclass(frozen=True)
class Mutant(Fault):
    """A fault that the checks should notice."""

    checks: tuple[str, int] = STREAMS
    """The file that should notice, and how many devices it needs."""


MUTANTS = [
    Mutant(HOST, "self._stream.wait_event(after)", "pass"),
    Mutant(HOST, "torch.cuda.current_stream(self.device).wait_event(copied)", "pass"),
    Mutant(HOST, "torch.cuda.current_stream(self.device).record_event()", "torch.cuda.Event()"),
    Mutant(HOST, "return self._stream.record_event()", "return torch.cuda.Event()"),
    Mutant(HOST, "self.copy(on_host, tensor, self.computed())", "self.copy(on_host, tensor, None)"),
    Mutant(HOST, "self.wait(offloaded.copied)\n        offloaded.original", "offloaded.original"),
    Mutant(HOST, "offloaded.on_host, self.computed())", "offloaded.on_host, None)"),
    Mutant(HOST, "self.wait(offloaded.copied)\n        return tensor", "return tensor"),
    Mutant(STREAMED, "self._host.wait(buffer.copied)  # the copy", "pass  # the copy"),
    Mutant(STREAMED, "self._host.wait(buffer.copied)\n            self._weights", "self._weights"),
    Mutant(STREAMED, "buffer.computed = self._host.computed()\n            buffer.attached", "buffer.attached"),
    Mutant(STREAMED, "buffer.computed = self._host.computed()  # what", "pass  # what"),
    Mutant(STREAMED, "weights.on_host, buffer.computed)", "weights.on_host, None)"),
    Mutant(STREAMED, "self._weights[index].attach(buffer.data)", "pass"),
    Mutant(STREAMED, "if not buffer.attached)", "if buffer.block != index - 1)"),
    Mutant(STREAMED, "if not in_backward():  # otherwise", "if True:  # otherwise"),
    Mutant(STREAMED, "ctx.done()", "pass"),
    Mutant(STREAMED, "parameter.data = parameter.data.to(host.device)", "pass"),
    Mutant(STREAMED, "dtype=weight.dtype, device=self._device", "dtype=weight.dtype"),
    Mutant(BLOCKS, "return self._host.fetch(saved)", "return saved.on_host"),
    Mutant(BLOCKS, "self._host.release(offloaded)", "pass"),
    Mutant(OFFLOADED, "self.stream.synchronize()", "pass"),
    Mutant(PREFETCH, "            upcoming = _Upcoming(batches, host)\n            yield batch", NOT_AHEAD),
    Mutant(PREFETCH, "self._host.fetch(next(tensors))", "next(tensors).on_device"),
    Mutant(PREFETCH, "upcoming.abandon()", "pass"),
    Mutant(OFF, "stream.free_buffers()", "pass"),
    Mutant(OFF, "stream.free()", "pass"),
    Mutant(ZERO, "device=parameter.device if fused else None", "device=None", PRODUCT),
    Mutant(DEVICE, "torch.cuda.set_device(gpu)", "pass", PRODUCT),
    Mutant(DEVICE, "torch._C._accelerator_setAllocatorSettings(ROUND_PINNED_MEMORY)", "pass", PRODUCT),
    Mutant(DEVICE, "if first != rank:", "if False:", PRODUCT),
    Mutant(OFF, "elif frozen:", "else:", PRODUCT),
    Mutant(OFF, "copies[key].on_host.copy_(_content(storage), non_blocking=True)", "pass", PRODUCT),
    Mutant(OFF, "storage.resize_(0)\n    release(device)\n    try", "pass\n    try", PRODUCT),
    Mutant(OFF, "_content(storage).copy_(copies[key].on_host, non_blocking=True)", "pass", PRODUCT),
    Mutant(OFF, "state = state.state2", "break", PRODUCT),
    Mutant(QUANT, "block.to(compute.device)", "pass", PRODUCT),
    Mutant(QUANT, "layer.__class__ = EightBitLinear if", "_ = EightBitLinear if", PRODUCT),
    Mutant(QUANT, "ctx.layer.weight.dequantize()", "ctx.layer.weight.dequantize().cpu()", PRODUCT),
]  # fmt: skip


MUTANTS += [Mutant(*issue, (checks, 2)) for checks, issues in ISSUES.items() for issue in issues]


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
