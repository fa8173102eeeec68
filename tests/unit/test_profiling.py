"""Attribution of recorded operators and kernels to parts, and their counts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile, record_function
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from cogvx_exp.profiling.analysis.attribution import NODE, attribute
from cogvx_exp.profiling.analysis.breakdown import OWN_RANGE, break_down
from cogvx_exp.profiling.analysis.flops import flops_of
from cogvx_exp.profiling.analysis.trace import STEP, Trace, parse_trace, read_trace
from cogvx_exp.profiling.parts import RANGES, module_parts
from cogvx_exp.profiling.recorder import _ModuleRanges

PARTS = {**RANGES, "attn1": "attention", "ff": "feed-forward"}


def recorded(step: Callable[[], None], folder: Path) -> Trace:
    """A trace of one step."""
    with profile(record_shapes=True, acc_events=True) as profiler, record_function(f"{STEP}0"):
        step()
    profiler.export_chrome_trace(str(folder / "trace.json.gz"))
    return read_trace(folder / "trace.json.gz", 1)


class Net(nn.Module):
    """An attention layer with two heads and a feed-forward layer, each in its own range."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with record_function("attn1"):
            heads = self.query(x).unflatten(2, (2, 4)).transpose(1, 2)
            x = x + nn.functional.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
            x.detach().sum()  # creates no node, and has the same number as the next operator
        with record_function("ff"):
            return x.relu() + self.down(nn.functional.gelu(self.up(x)))


@pytest.mark.parametrize("again", [False, True])
def test_each_node_of_the_backward_pass_belongs_to_what_made_it(again: bool, tmp_path: Path) -> None:
    net, x = Net(), torch.randn(2, 5, 8)

    def step() -> None:
        with record_function("forward"):
            y = checkpoint(net, x, use_reentrant=False) if again else net(x)
            loss = y.square().mean()
        with record_function("backward"):
            loss.backward()

    trace = recorded(step, tmp_path)
    attribute(trace, PARTS)
    nodes: dict[str, list[str]] = {}
    for event in trace.host:
        if event.name.startswith(NODE):
            nodes.setdefault(event.name.removeprefix(NODE), []).append(event.part)
    assert nodes.pop("ScaledDotProductFlashAttentionForCpuBackward0") == ["attention"]
    assert nodes.pop("GeluBackward0") == nodes.pop("ReluBackward0") == ["feed-forward"]
    assert nodes.pop("PowBackward0") == nodes.pop("MeanBackward0") == ["inputs and loss"]
    assert nodes.pop("AddmmBackward0") == ["feed-forward", "feed-forward", "attention"]
    # Gradients of two biases and two weights are accumulated after the nodes that computed them.
    assert nodes.pop("torch::autograd::AccumulateGrad") == ["feed-forward"] * 4 + ["attention"] * 2
    products = [(event.part, event.phase) for event in trace.host if event.name == "aten::addmm"]
    forward = [("attention", "forward"), ("feed-forward", "forward"), ("feed-forward", "forward")]
    # The last product is not recomputed: its output is not needed.
    recomputed = [("attention", "recomputed"), ("feed-forward", "recomputed")]
    assert products[:3] == forward
    assert products[3:5] == (recomputed if again else [])
    backward = [(event.part, event.phase) for event in trace.host if event.name == "aten::mm"]
    assert set(backward) == {("attention", "backward"), ("feed-forward", "backward")}


def test_a_module_that_is_left_by_an_exception_closes_its_range(tmp_path: Path) -> None:
    """Checkpointing raises an exception to stop recomputing a block."""
    net, x = Net(), torch.randn(2, 5, 8)
    ranges = _ModuleRanges({net: "transformer_blocks.0"})

    def step() -> None:
        ranges.install()
        checkpoint(net, x, use_reentrant=False).sum().backward()
        ranges.remove()
        net(x)

    around = [event.parent and event.parent.name for event in recorded(step, tmp_path).host if event.name == "attn1"]
    assert around == ["transformer_blocks.0", "transformer_blocks.0", None]


def test_a_compiled_block_is_a_part_of_its_own() -> None:
    block = nn.ModuleDict({name: nn.Linear(2, 2) for name in ("attn1", "ff", "norm1", "norm2")})
    transformer = nn.Module()
    transformer.transformer_blocks = nn.ModuleList([block])
    assert {part for _, part in module_parts(transformer).values()} >= {"attention", "feed-forward"}  # type: ignore
    block.forward = torch.compile(block.forward)
    assert {part for _, part in module_parts(transformer).values()} == {"embeddings", "compiled blocks"}  # type: ignore


def test_operations_are_counted_as_torch_counts_them(tmp_path: Path) -> None:
    """Convolutions, products with and without a bias, batched products, and attention as separate products."""
    conv, net = nn.Conv3d(3, 6, 3, stride=(1, 2, 2), padding=1, dilation=(1, 1, 2)), Net()
    video, x = torch.randn(2, 3, 4, 10, 10, requires_grad=True), torch.randn(2, 5, 8, requires_grad=True)

    def step() -> None:
        with sdpa_kernel(SDPBackend.MATH):
            (conv(video).mean() + net(x).mean() + (x @ torch.ones(8, 3)).mean()).backward()

    trace = recorded(step, tmp_path)
    attribute(trace, PARTS)
    with FlopCounterMode(display=False) as counter:
        step()
    assert sum(flops_of(event) for event in trace.host if event.is_operator) == counter.get_total_flops()


NAMES = {"id": "External id", "sequence": "Sequence number", "made_in": "Fwd thread id", "shapes": "Input Dims"}
PRODUCT = [[100, 1000], [1000, 500]]
"""Shapes of a product with 1e8 operations."""


def traced(category: str, name: str, start: float, duration: float, thread: int = 1, **about: Any) -> dict[str, Any]:
    """An event in the format of a trace, by default on the training thread."""
    args = {NAMES.get(key, key): value for key, value in about.items()}
    return {"ph": "X", "cat": category, "name": name, "tid": thread, "ts": start, "dur": duration, "args": args}


GPU_TRACE = [
    traced("user_annotation", "ProfilerStep#4", 0, 1000),
    traced("user_annotation", "data wait", 0, 100, id=1),
    traced("user_annotation", "forward", 100, 100, id=2),
    traced("user_annotation", "attn1", 110, 40, id=3),
    traced("cpu_op", "aten::mm", 120, 20, id=4, sequence=7, made_in=0, shapes=PRODUCT),
    traced("cuda_runtime", "cudaLaunchKernel", 125, 5, correlation=50),
    traced("user_annotation", "losses to the host", 200, 600, id=5),
    traced("cuda_runtime", "cudaStreamSynchronize", 210, 580, correlation=51),
    traced("user_annotation", OWN_RANGE, 900, 90, id=6),
    traced("cuda_runtime", "cudaDeviceSynchronize", 910, 70, correlation=52),
    # autograd's thread, which recomputes first and has its own sequence numbers
    traced("user_annotation", "ff", 180, 25, thread=2, id=8),
    traced("cpu_op", "aten::mm", 185, 15, thread=2, id=9, sequence=7, made_in=0, shapes=PRODUCT),
    traced("cpu_op", f"{NODE}MmBackward0", 210, 60, id=10, sequence=7, made_in=1, thread=2),
    traced("cpu_op", "aten::mm", 220, 20, id=11, shapes=PRODUCT, thread=2),
    # the device
    traced("kernel", "gemm", 300, 200, id=4, correlation=50, thread=7),
    traced("kernel", "gemm", 500, 100, id=11, correlation=53, thread=7),
    traced("gpu_memcpy", "Memcpy HtoD", 450, 200, id=1, correlation=54, thread=8),
    traced("kernel", "ncclDevKernel_AllReduce_Sum_f32", 550, 200, correlation=55, thread=9),
    traced("kernel", "gemm", 1200, 100, id=4, thread=7),  # in a step that is not recorded
    traced("gpu_user_annotation", "attn1", 300, 200, thread=7),
]
"""A step of one millisecond. Kernels run after the host launched them, on three streams."""


def test_moments_of_a_gpu_belong_to_its_kernels_and_else_to_what_the_host_waits_for() -> None:
    found = break_down(parse_trace(GPU_TRACE, 1), PARTS, first_step=5, steps=1, peak_flops=1e12)
    times = {name: round(work.seconds * 1e6) for name, work in found.parts.items() if work.seconds}
    assert times == {
        "attention": 300,  # 300 to 600, forward and backward
        "data wait": 150,  # 0 to 100, while nothing runs, and the end of the copy
        "exchange": 100,  # the part not hidden by computation
        "logging": 150,  # 200 to 300 and 750 to 800: the host reads values while nothing runs
        "idle": 300,
    }
    attention = found.parts["attention"]
    assert (round(attention.forward * 1e6), round(attention.backward * 1e6)) == (200, 100)
    assert {name: work.kernels for name, work in found.parts.items() if work.kernels} == {
        "attention": 2,
        "data wait": 1,
        "exchange": 1,
    }
    # The profiler's own are not counted.
    assert {name: work.synchronisations for name, work in found.parts.items() if work.synchronisations} == {
        "logging": 1
    }
    assert found.on_device


def test_the_share_of_the_peak_leaves_out_what_is_computed_again() -> None:
    events = [
        traced("user_annotation", "ProfilerStep#4", 0, 1000),
        traced("user_annotation", "attn1", 0, 50, id=1),
        traced("cpu_op", "aten::mm", 10, 20, id=2, sequence=7, made_in=0, shapes=PRODUCT),
        traced("cpu_op", f"{NODE}MmBackward0", 100, 60, id=3, sequence=7, made_in=1),
        traced("user_annotation", "attn1", 105, 50, id=4),
        traced("cpu_op", "aten::mm", 110, 20, id=5, sequence=8, made_in=0, shapes=PRODUCT),
        traced("kernel", "gemm", 200, 250, id=2),
        traced("kernel", "gemm", 450, 250, id=5),
    ]
    found = break_down(parse_trace(events, 1), PARTS, first_step=5, steps=1, peak_flops=1e12)
    attention = found.parts["attention"]
    assert (attention.flops, attention.recomputed_flops) == (2e8, 1e8)
    assert found.mfu(attention) == pytest.approx(1e8 / 500e-6 / 1e12)
    assert next(row for row in found.rows() if row["part"] == "attention")["gflop_per_second"] == 400
