"""Whether the software device behaves as a CUDA device does: run on it, in a pytest of its own."""

import copy
import io
import os

import pytest
import torch
from torch import nn

GPU = torch.device("cuda")


def test_tensors_have_real_numbers_and_cost_memory() -> None:
    before = torch.cuda.memory_allocated()
    ones = torch.ones(1000, 1000, device=GPU)
    assert ones.device == torch.device("cuda:0")
    assert torch.cuda.memory_allocated() - before == -(-4_000_000 // 512) * 512
    assert (ones @ ones).sum().item() == 1e9
    peak = torch.cuda.max_memory_allocated()
    del ones
    assert torch.cuda.memory_allocated() == before
    assert peak >= before + 8_000_000
    assert torch.empty(4, device=GPU).isnan().all(), "what was not written must not pass for numbers"


@pytest.mark.parametrize(
    "mix",
    [
        lambda: torch.ones(2, device=GPU) + torch.ones(2),
        lambda: nn.functional.linear(torch.ones(2, 2, device=GPU), torch.ones(2, 2)),
        lambda: torch.randn(2, device=GPU, generator=torch.Generator()),
        lambda: torch.ones(4)[torch.tensor([0], device=GPU)],
        lambda: torch.cat([torch.ones(2, device=GPU), torch.ones(2)]),
        lambda: torch._foreach_add_([torch.ones(2, device=GPU)], [torch.ones(2)]),
        lambda: torch.cuda.set_rng_state(torch.get_rng_state()),
    ],
)
def test_a_mix_of_devices_is_refused(mix) -> None:
    with pytest.raises(RuntimeError):
        mix()


def test_a_fused_step_wants_its_counters_on_the_device() -> None:
    """As the real kernel does (pytorch issues 104767 and 111123)."""
    weight = nn.Parameter(torch.ones(3, device=GPU))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(3, device=GPU)
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()
    with pytest.raises(RuntimeError):
        optimizer.step()


@pytest.mark.parametrize("fused", [False, True])
def test_training_gives_the_numbers_of_the_cpu(fused: bool) -> None:
    net = nn.Sequential(nn.Conv3d(3, 8, 3), nn.GroupNorm(2, 8), nn.SiLU(), nn.Flatten(), nn.Linear(576, 4))
    on_gpu, x = copy.deepcopy(net).to(GPU), torch.randn(2, 3, 4, 8, 8)
    losses: list[list[float]] = [[], []]
    for model, given, found in ((net, x, losses[0]), (on_gpu, x.to(GPU), losses[1])):
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2, fused=fused)
        for _ in range(3):
            loss = model(given).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            found.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_attention_has_the_gradients_of_the_cpu() -> None:
    one = torch.randn(2, 3, 16, 8, requires_grad=True)
    other = one.detach().to(GPU).requires_grad_()
    for x in (one, other):
        nn.functional.scaled_dot_product_attention(x, x * 2, x * 3).square().sum().backward()
    torch.testing.assert_close(other.grad.cpu(), one.grad, rtol=1e-4, atol=1e-4)


def raced(use) -> None:
    with pytest.raises(RuntimeError, match="race"):
        use()


def test_a_copy_from_the_device_is_not_there_before_it_is_waited_for() -> None:
    on_host, on_device, stream = torch.empty(10, pin_memory=True), torch.ones(10, device=GPU), torch.cuda.Stream()
    assert on_host.is_pinned()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        on_host.copy_(on_device, non_blocking=True)
    assert on_host.isnan().all()
    stream.synchronize()
    assert (on_host == 1).all()


def test_streams_without_an_order_are_races() -> None:
    pinned, stream = torch.ones(10, pin_memory=True), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        read = pinned.to(GPU, non_blocking=True)
        done = stream.record_event()
    raced(lambda: read + 1)
    torch.cuda.current_stream().wait_event(done)
    assert (read + 1).sum().item() == 20
    read.record_stream(torch.cuda.current_stream())
    written = torch.ones(10, device=GPU)

    def copy_without_waiting() -> None:
        with torch.cuda.stream(stream):
            pinned.copy_(written, non_blocking=True)

    raced(copy_without_waiting)


def test_memory_that_another_stream_uses_may_not_be_freed_without_record_stream() -> None:
    library = torch._C._software_cuda
    for recorded in (True, False):
        library.clear_races()
        stream, tensor = torch.cuda.Stream(), torch.ones(10, device=GPU)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.empty(10, pin_memory=True).copy_(tensor, non_blocking=True)
        if recorded:
            tensor.record_stream(stream)
        del tensor
        assert bool(library.races()) != recorded
    library.clear_races()


def test_fresh_memory_belongs_to_the_stream_that_asked_for_it() -> None:
    """What the caching allocator gives out may still be in use by work that was queued there before."""
    torch.ones(10, device=GPU)
    fresh, stream = torch.empty(10, device=GPU), torch.cuda.Stream()

    def write_without_waiting() -> None:
        with torch.cuda.stream(stream):
            fresh.zero_()

    raced(write_without_waiting)
    stream.wait_stream(torch.cuda.current_stream())
    write_without_waiting()
    torch.cuda.current_stream().wait_stream(stream)


def test_pinned_memory_may_not_change_under_a_copy() -> None:
    pinned, stream = torch.ones(10, pin_memory=True), torch.cuda.Stream()
    with torch.cuda.stream(stream):
        kept = pinned.to(GPU, non_blocking=True)
    pinned.zero_()
    raced(stream.synchronize)
    del kept


def test_pinned_memory_is_rounded_up_to_a_power_of_two() -> None:
    library = torch._C._software_cuda
    before = library.usage(0)["pinned"]
    kept = torch.empty(5000, dtype=torch.uint8, pin_memory=True)
    assert library.usage(0)["pinned"] - before == 8192
    del kept
    assert library.usage(0)["pinned"] == before


def test_waits_of_the_host_are_counted() -> None:
    library = torch._C._software_cuda
    tensor = torch.ones(4, device=GPU)
    for wait in (tensor.sum().item, tensor.cpu, tensor.tolist, tensor.nonzero, lambda: bool(tensor[0] > 0)):
        before = sum(library.synchronizations().values())
        wait()
        assert sum(library.synchronizations().values()) == before + 1
    tensor.mul_(2).sum()
    assert sum(library.synchronizations().values()) == before + 1


def test_there_is_an_end_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(1 << 40, device=GPU)


def test_random_numbers_saving_storages_and_scaling() -> None:
    state = torch.cuda.get_rng_state()
    drawn = torch.rand(3, device=GPU)
    torch.cuda.set_rng_state(state)
    assert torch.equal(drawn, torch.rand(3, device=GPU))
    seeded = [torch.rand(3, device=place, generator=torch.Generator(place).manual_seed(1)) for place in (GPU, "cpu")]
    assert not torch.equal(seeded[0].cpu(), seeded[1]), "as on a real device"
    assert torch.Generator(GPU).manual_seed(1).initial_seed() == 1
    file = io.BytesIO()
    torch.save(drawn, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), drawn)
    storage = drawn.untyped_storage()
    kept, size = storage.clone(), storage.nbytes()
    storage.resize_(0)
    storage.resize_(size)
    storage.copy_(kept)
    assert not drawn.isnan().any()
    assert torch.amp.GradScaler("cuda").is_enabled()
    with pytest.raises(TypeError):
        drawn.numpy()


def test_a_forked_process_cannot_use_it() -> None:
    torch.ones(1, device=GPU)
    child = os.fork()
    if child == 0:
        try:
            torch.zeros(1, device=GPU)
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
