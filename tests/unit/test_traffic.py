"""Bytes moved by operations, counted with fake tensors."""

from collections.abc import Callable

import pytest
import torch

from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.trace.traffic import PassTraffic, TrafficCounter, block_traffic, pass_traffic, trace_pass
from tests.conftest import MakeJob

SIZE = 4 * 8 * 4
"""Bytes of each tensor below."""


@pytest.mark.parametrize(
    ("operation", "kind", "moved"),
    [
        (lambda x, y: x + y, "elementwise", 3 * SIZE),
        (lambda x, y: x * x, "elementwise", 2 * SIZE),
        (lambda x, y: x.add_(y), "elementwise", 3 * SIZE),
        (lambda x, y: x.copy_(y), "elementwise", 2 * SIZE),
        (lambda x, y: x.zero_(), "elementwise", SIZE),
        (lambda x, y: torch.zeros_like(x), "elementwise", SIZE),
        (lambda x, y: x[:1].expand(4, 8) + y, "elementwise", 2 * SIZE + SIZE // 4),
        (lambda x, y: x.bfloat16(), "elementwise", SIZE + SIZE // 2),
        (lambda x, y: torch.cat([x, y]), "elementwise", 4 * SIZE),
        (lambda x, y: x.view(8, 4).t().split(2), "elementwise", 0),
        (lambda x, y: torch.empty_like(x), "elementwise", 0),
        (lambda x, y: x @ y.t(), "products", 2 * SIZE + 4 * 4 * 4),
    ],
)
def test_each_tensor_is_read_and_written_once(operation: Callable, kind: str, moved: int) -> None:
    x, y = torch.randn(4, 8), torch.randn(4, 8)
    with TrafficCounter() as counter:
        operation(x, y)
    assert counter.traffic.bytes == ({kind: moved} if moved else {})
    assert counter.traffic.operators.total() == bool(moved)


def test_attention_is_apart() -> None:
    q = torch.randn(1, 2, 16, 8, dtype=torch.bfloat16)
    with TrafficCounter() as counter:
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert counter.traffic.bytes["elementwise"] == 0
    assert counter.traffic.bytes["attention"] == 2 * q.nbytes + 4 * 2 * 16, "queries, result, sums"


WIDE = ("model.transformer.num_layers=4", "model.dtype=bfloat16")
SHAPE = Bucket(9, 32, 48)


def elementwise(moved: PassTraffic) -> int:
    return moved.forward.bytes["elementwise"] + moved.backward.bytes["elementwise"]


def test_what_is_computed_again_moves_again(make_job: MakeJob) -> None:
    def of(*settings: str) -> PassTraffic:
        return block_traffic(make_job(*WIDE, *settings), SHAPE)

    keep, again = of("memory.activations=keep"), of("memory.activations=checkpoint")
    assert keep.forward.bytes == again.forward.bytes
    # Recomputation stops after the last tensor that is needed.
    assert elementwise(again) - elementwise(keep) == pytest.approx(keep.forward.bytes["elementwise"], rel=0.1)
    selective = of("memory.activations=selective")
    assert selective.backward.operators["attention"] == 1 < again.backward.operators["attention"] == 2


def test_two_depths_tell_the_whole(make_job: MakeJob) -> None:
    job = make_job(*WIDE, "memory.activations=checkpoint")
    extrapolated, whole = pass_traffic(job, SHAPE), trace_pass(job, SHAPE, "cuda")
    assert elementwise(extrapolated) == elementwise(whole)
    assert extrapolated.backward.operators == whole.backward.operators


def test_a_block_of_the_5b_moves_little_enough(make_job: MakeJob) -> None:
    """Upper bounds on the bytes that blocks move, which catch changes that add copies."""
    job = make_job("model=5b", "model.weights=random", "memory.activations=checkpoint")
    block = block_traffic(job, Bucket(49, 480, 720))
    assert block.forward.bytes["elementwise"] < 15.4e9
    assert block.backward.bytes["elementwise"] < 34.0e9
