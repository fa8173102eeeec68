"""Optimizers that hold gradients back, release them, or round at random."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import LrScheduler, Optim
from cogvx_exp.optim.build import build_optimizer, parameter_groups
from cogvx_exp.optim.flatten import flatten_state, unflatten_state
from cogvx_exp.optim.in_backward import OptimizerInBackward
from cogvx_exp.optim.lr_scheduler import build_lr_scheduler
from tests.conftest import MakeJob, needs_compiler

CPU = torch.device("cpu")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.Linear(128, 8))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, clip: Callable[[], Any], steps: int = 6, first: int = 0
) -> list[float]:
    """Losses under a learning rate that rises and falls."""
    scheduler = build_lr_scheduler(optimizer, LrScheduler(name="cosine", warmup_steps=2), steps=8)
    losses = []
    for step in range(first, first + steps):
        torch.manual_seed(step)
        x = torch.randn(16, 64)
        loss = (model(x) - x[:, :8]).square().mean()
        loss.backward()
        clip()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def offloaded(monkeypatch: pytest.MonkeyPatch) -> type[torch.optim.Optimizer]:
    """torchao's offloading optimizer where its streams do nothing, since there is no GPU."""
    import torchao.optim.cpu_offload as torchao_offload

    from cogvx_exp.optim.offloaded import OffloadedOptimizer

    class NoStream:
        def __getattr__(self, name: str) -> Callable[..., "NoStream"]:
            return lambda *arguments, **keywords: self

        def __enter__(self) -> None: ...

        def __exit__(self, *exception: object) -> None: ...

    empty_like = torch.empty_like
    monkeypatch.setattr(torchao_offload, "get_available_devices", lambda: ["cuda"])
    monkeypatch.setattr(torch, "empty_like", lambda tensor, **keywords: empty_like(tensor))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: None)
    for name in ("Stream", "stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *arguments: NoStream())
    return OffloadedOptimizer


@pytest.mark.parametrize("offload_gradients", [True, False])
@pytest.mark.parametrize("max_norm", [0.05, float("inf")])
def test_offloaded_optimizer_clips_and_follows_the_schedule(
    offloaded: Any, make_job: MakeJob, offload_gradients: bool, max_norm: float
) -> None:
    plain, model = network(), network()
    settings = ["optim=cpu_offload", "optim.lr=0.01", f"optim.offload_gradients={str(offload_gradients).lower()}"]
    optim = make_job(*settings).optim
    usual = torch.optim.AdamW(plain.parameters(), lr=0.01, betas=(0.9, 0.95), weight_decay=0.001)
    expected = train(plain, usual, lambda: nn.utils.clip_grad_norm_(plain.parameters(), max_norm))
    optimizer = build_optimizer(dict(model.named_parameters()), optim, torch.device("cuda"))
    assert isinstance(optimizer, offloaded)
    norms, held, largest = [], set(), max(model.parameters(), key=torch.Tensor.numel)

    def clip() -> None:
        held.add(largest.grad is not None)
        norms.append(optimizer.clip_gradients(max_norm))

    found = train(model, optimizer, clip)
    assert held == {not offload_gradients}
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(norm > 0.05 for norm in norms), "there was something to clip"
    assert len(optimizer.optim_dict) == 1, "the largest weight is on the host, the others on the device"


def test_offloaded_optimizer_takes_over_weights_that_are_loaded(offloaded: Any) -> None:
    def build(model: nn.Module) -> Any:
        return offloaded([{"params": list(model.parameters()), "lr": 1e-2}], offload_gradients=True)

    whole = network()
    train(whole, build(whole), lambda: None, steps=6)
    first = network()
    optimizer = build(first)
    train(first, optimizer, lambda: None, steps=3)
    second = network()
    resumed = build(second)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    for ours, theirs in zip(resumed.param_d2h_map.items(), optimizer.param_d2h_map.items(), strict=True):
        assert torch.equal(ours[0], ours[1])
        assert torch.equal(ours[1], theirs[1])


def test_released_gradients_give_the_same_training() -> None:
    plain, model = network(), network()
    expected = train(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2), lambda: None)
    groups = [{"params": list(model.parameters()), "lr": 1e-2}]
    optimizer = OptimizerInBackward(groups, torch.optim.AdamW)
    norms = []

    def norm() -> None:
        assert all(parameter.grad is None for parameter in model.parameters())
        norms.append(optimizer.clip_gradients(1.0))

    assert train(model, optimizer, norm) == expected
    assert all(norm > 0 for norm in norms)
    again = OptimizerInBackward(groups, torch.optim.AdamW)
    again.load_state_dict(optimizer.state_dict())
    assert str(again.state_dict()) == str(optimizer.state_dict())


@pytest.mark.parametrize("optim", ["ao_adamw", "ao_adamw8bit"])
def test_stochastic_rounding_keeps_updates_that_bfloat16_loses(make_job: MakeJob, optim: str) -> None:
    """Steps of 1e-5 from 1.0, where the next smaller bfloat16 is 0.0039 away."""
    needs_compiler(optim)

    def moved(*settings: str) -> float:
        weight = nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
        settings = ("method=sft", "model.dtype=bfloat16", "optim.lr=1e-5", "optim.weight_decay=0", *settings)
        optimizer = build_optimizer({"weight": weight}, make_job(*settings).optim, CPU)
        torch.manual_seed(0)
        for _ in range(50):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        return 1 - float(weight.float().mean())

    assert moved("optim=adamw") == 0
    assert moved(f"optim={optim}", "optim.stochastic_rounding=true") == pytest.approx(50 * 1e-5, rel=0.2)


def choices() -> list[str]:
    return sorted(path.stem for path in (conf_dir() / "optim").glob("[!_]*.yaml"))


def nbytes(tensor: torch.Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(nbytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.nbytes


@pytest.mark.parametrize("name", choices())
def test_optimizer_states_take_what_its_file_says(make_job: MakeJob, name: str) -> None:
    needs_compiler(name)
    settings = [f"optim={name}", *(["method=sft", "model.dtype=bfloat16"] if name.endswith("_bf16") else [])]
    optim = make_job(*settings).optim
    weight = nn.Parameter(torch.randn(512, 512))
    weight.grad = torch.randn(512, 512)
    optimizer = build_optimizer({"weight": weight}, optim, CPU)
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    taken = sum(nbytes(value) for value in tensors if isinstance(value, torch.Tensor)) / weight.numel()
    assert taken == pytest.approx(4 * optim.state_values + optim.state_bytes, rel=0.01, abs=0.1)
    stored: dict[str, torch.Tensor] = {}
    state = unflatten_state(flatten_state(optimizer.state_dict(), stored, ""), stored)
    again = build_optimizer({"weight": nn.Parameter(weight.detach().clone())}, optim, CPU)
    again.load_state_dict(state)
    before = weight.detach().clone()
    for one in (optimizer, again):
        torch.manual_seed(1)
        (parameter,) = one.param_groups[0]["params"]
        parameter.grad = torch.ones(512, 512)
        one.step()
    (resumed,) = again.param_groups[0]["params"]
    assert torch.equal(resumed, weight)
    assert not torch.equal(resumed, before)


@pytest.mark.parametrize("name", [name for name in choices() if name != "prodigy"])
def test_the_rate_means_the_same_to_every_optimizer(make_job: MakeJob, name: str) -> None:
    """A matrix of zeros, as a LoRA has one, moves by about the rate in a step. Prodigy finds its own."""
    needs_compiler(name)
    settings = ["method=sft", "model.dtype=bfloat16"] if name.endswith("_bf16") else []
    optim = make_job(f"optim={name}", "optim.lr=0.001", *settings).optim
    weight, steps = nn.Parameter(torch.zeros(128, 128)), 20
    optimizer = build_optimizer({"weight": weight}, optim, CPU)
    torch.manual_seed(0)
    for _ in range(steps):
        weight.grad = 0.01 * (0.5 + torch.randn(128, 128))
        optimizer.step()
    moved = weight.detach().square().mean().sqrt().item() / steps / 0.001
    assert 0.05 < moved < 1.5


def test_norms_and_biases_may_be_left_out_of_the_decay(make_job: MakeJob) -> None:
    parameters = {"weight": nn.Parameter(torch.ones(2, 2)), "bias": nn.Parameter(torch.ones(2))}
    plain: Optim = make_job("optim.weight_decay=0.1").optim
    assert [group["weight_decay"] for group in parameter_groups(parameters, plain, 1.0)] == [0.1]
    without = make_job("optim.weight_decay=0.1", "optim.decay_norms_and_biases=false").optim
    groups = parameter_groups(parameters, without, 1.0)
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 1), (0.0, 1)]


def test_learning_rate_is_scaled_by_the_samples_of_a_step(make_job: MakeJob) -> None:
    weight = {"weight": nn.Parameter(torch.ones(2, 2))}
    scaled = build_optimizer(weight, make_job("optim.lr=0.001", "optim.scale_lr=true").optim, CPU, lr_factor=8)
    assert scaled.param_groups[0]["lr"] == pytest.approx(0.008)
    plain = build_optimizer(weight, make_job("optim.lr=0.001").optim, CPU, lr_factor=8)
    assert plain.param_groups[0]["lr"] == pytest.approx(0.001)
