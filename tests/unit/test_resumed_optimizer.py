"""An optimizer that goes on with other settings: what it has learned stays, what the user says now holds."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import LrScheduler, Optim
from cogvx_exp.core.errors import UserError
from cogvx_exp.optim.build import build_optimizer
from cogvx_exp.optim.flatten import flatten_state, unflatten_state
from cogvx_exp.optim.lr_scheduler import build_lr_scheduler
from cogvx_exp.optim.state import NOTHING, OptimizerStates, load_states, read_learned, states_fit
from tests.conftest import MakeJob
from tests.unit.test_optimizer import offloaded

CPU = torch.device("cpu")
OPTIMIZERS = sorted(path.stem for path in (conf_dir() / "optim").glob("[!_]*.yaml"))
SCHEDULES = sorted(path.stem for path in (conf_dir() / "lr_scheduler").glob("*.yaml"))

__all__ = ["offloaded"]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchao's optimizers compile their step; the numbers are the same without."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, nn.Parameter]:
    """A bias between matrices, so that groups by shape are not in the parameters' order."""
    torch.manual_seed(0)
    shapes = {"large": (64, 64), "bias": (32,), "small": (8, 16)}
    return {name: nn.Parameter(torch.randn(shape).to(dtype)) for name, shape in shapes.items()}


def optim_of(make_job: MakeJob, name: str, *settings: str) -> Optim:
    needs = ["method=sft", "model.dtype=bfloat16"] if name.endswith("_bf16") else []
    return make_job(f"optim={name}", "max_grad_norm=null", *needs, *settings).optim


def move(optimizer: torch.optim.Optimizer, weights: dict[str, nn.Parameter], first: int, steps: int) -> None:
    for step in range(first, first + steps):
        torch.manual_seed(step)
        loss = sum((weight * torch.randn(weight.shape)).square().sum() for weight in weights.values())
        loss.backward()
        torch.manual_seed(step)  # stochastic rounding draws, too
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def saved(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state as a checkpoint gives it back."""
    tensors: dict[str, torch.Tensor] = {}
    state: dict[str, Any] = unflatten_state(flatten_state(optimizer.state_dict(), tensors, ""), tensors)
    return state


def shapes_of(weights: dict[str, nn.Parameter]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in weights.items()}


def trained(optim: Optim, device: torch.device = CPU) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    weights = parameters(torch.bfloat16 if optim.stochastic_rounding else torch.float32)
    optimizer = build_optimizer(weights, optim, device)
    move(optimizer, weights, 0, 3)
    return weights, optimizer


def resumed(
    weights: dict[str, nn.Parameter], learned: OptimizerStates, optim: Optim, device: torch.device = CPU
) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    again = {name: nn.Parameter(torch.zeros_like(weight)) for name, weight in weights.items()}
    optimizer = build_optimizer(again, optim, device)
    build_lr_scheduler(optimizer, LrScheduler(name="constant"), steps=9)
    with torch.no_grad():
        for name, weight in weights.items():
            again[name].copy_(weight)
    load_states(optimizer, again, learned)
    build_lr_scheduler(optimizer, LrScheduler(name="constant"), steps=9, done=3)
    return again, optimizer


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)


def same(one: Any, other: Any) -> bool:
    return str(one) == str(other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unchanged_settings_go_on_to_the_bit(make_job: MakeJob, name: str) -> None:
    optim = optim_of(make_job, name)
    weights, optimizer = trained(optim)
    again, other = resumed(weights, read_learned(saved(optimizer), shapes_of(weights), optim), optim)
    assert same(saved(other)["state"], saved(optimizer)["state"])
    move(optimizer, weights, 3, 2)
    move(other, again, 3, 2)
    assert all(torch.equal(again[name], weight) for name, weight in weights.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_new_settings_hold_and_what_was_learned_stays(make_job: MakeJob, name: str) -> None:
    before = optim_of(make_job, name)
    weights, optimizer = trained(before)
    changed = ["optim.lr=0.003", "optim.weight_decay=0.2", "optim.decay_norms_and_biases=false"]
    changed += [f"optim.betas={[0.7, 0.8, 0.9][: len(before.betas)]}"] if before.betas else []
    changed += ["optim.eps=1e-5"] if before.eps else []
    now = optim_of(make_job, name, *changed)
    learned = read_learned(saved(optimizer), shapes_of(weights), before)
    assert states_fit(learned, shapes_of(weights), before, now, weights["large"])
    again, other = resumed(weights, learned, now)
    for group in other.param_groups:
        assert float(group["lr"]) == pytest.approx(0.003)
        assert group["weight_decay"] == (0.0 if group["params"][0].ndim == 1 else 0.2), "groups are those of now"
        assert now.betas is None or tuple(group.get("betas", now.betas)) == tuple(now.betas)
        assert group.get("eps", now.eps) == now.eps or now.eps is None
    for key, parameter in again.items():
        assert same(other.state[parameter], optimizer.state[weights[key]])
    for key in ("d", "step", "weight_sum", "lr_max"):
        values = [[group[key] for group in one.param_groups if key in group] for one in (optimizer, other)]
        assert set(values[0]) == set(values[1]), f"{key} is learned"
    move(optimizer, weights, 3, 1)
    move(other, again, 3, 1)
    assert any(not torch.equal(again[key], weight) for key, weight in weights.items())


@pytest.mark.parametrize(("one", "other"), [("plain", "released"), ("plain", "offloaded"), ("released", "offloaded")])
def test_ways_to_hold_gradients_share_what_was_learned(offloaded: Any, make_job: MakeJob, one: str, other: str) -> None:
    choice = {"plain": ("adamw",), "released": ("adamw", "optim.release_gradients=true"), "offloaded": ("cpu_offload",)}
    regroup = "optim.decay_norms_and_biases=false"
    for first, second in ((one, other), (other, one)):
        before, now = optim_of(make_job, *choice[first], regroup), optim_of(make_job, *choice[second])
        device = {name: torch.device("cuda" if name == "offloaded" else "cpu") for name in (first, second)}
        weights, optimizer = trained(before, device[first])
        learned = read_learned(saved(optimizer), shapes_of(weights), before)
        assert learned.states.keys() == weights.keys()
        again, goes_on = resumed(weights, learned, now, device[second])
        back = read_learned(saved(goes_on), shapes_of(weights), now)
        assert same(sorted(back.states.items()), sorted(learned.states.items()))
        for optimizer_now in (optimizer, goes_on):
            for group in optimizer_now.param_groups:
                group["weight_decay"], group["lr"] = 0.0, 0.01
        move(optimizer, weights, 3, 2)
        move(goes_on, again, 3, 2)
        assert all(torch.allclose(again[name], weight, atol=1e-6) for name, weight in weights.items())


def test_an_offloaded_optimizer_follows_the_schedule_after_a_resume(offloaded: Any, make_job: MakeJob) -> None:
    optim = optim_of(make_job, "cpu_offload")
    weights, optimizer = trained(optim, torch.device("cuda"))
    learned = read_learned(saved(optimizer), shapes_of(weights), optim)
    _, goes_on = resumed(weights, learned, optim, torch.device("cuda"))
    schedule = build_lr_scheduler(goes_on, LrScheduler(name="linear", warmup_steps=0), steps=4, done=3)
    schedule.step()
    assert {group["lr"] for part in goes_on.parts for group in part.param_groups} == {0.0}


def test_states_of_another_form_do_not_fit(make_job: MakeJob) -> None:
    def fits(name: str, *changed: str) -> bool:
        before = optim_of(make_job, name)
        weights, optimizer = trained(before)
        learned = read_learned(saved(optimizer), shapes_of(weights), before)
        return states_fit(learned, shapes_of(weights), before, optim_of(make_job, name, *changed), weights["large"])

    assert fits("adamw", "optim.betas=[0.5,0.6]")
    assert not fits("adamw", "+optim.kwargs.amsgrad=true")
    assert not fits("adamw8bit", "+optim.kwargs.min_8bit_size=1000000")
    assert not fits("ao_adamw8bit", "+optim.kwargs.block_size=8192")
    assert not fits("came", "+optim.kwargs.ams_bound=true")
    assert fits("prodigy", "optim.kwargs.d_coef=0.5")


def test_what_does_not_fit_starts_afresh(make_job: MakeJob) -> None:
    optim = optim_of(make_job, "prodigy")
    weights, _ = trained(optim)
    again, optimizer = resumed(weights, NOTHING, optim)
    assert not optimizer.state
    move(optimizer, again, 3, 1)


def test_a_schedule_free_average_stays_when_betas_change(make_job: MakeJob) -> None:
    before = optim_of(make_job, "schedule_free", "optim.lr=0.1")
    weights, optimizer = trained(before)
    now = optim_of(make_job, "schedule_free", "optim.lr=0.1", "optim.betas=[0.5,0.95]")
    again, other = resumed(weights, read_learned(saved(optimizer), shapes_of(weights), before), now)
    assert not torch.allclose(again["large"], weights["large"], atol=1e-3), "the weights lie elsewhere between the two"
    optimizer.eval()  # type: ignore[attr-defined]
    other.eval()  # type: ignore[attr-defined]
    assert torch.allclose(again["large"], weights["large"], atol=1e-5)


def rates(optimizer: torch.optim.Optimizer, schedule: LrScheduler, steps: int, done: int = 0) -> list[float]:
    """The rate of each step that is left, as all groups have it."""
    scheduler = build_lr_scheduler(optimizer, schedule, steps, done)
    found = []
    for _ in range(done, steps):
        (rate,) = {float(group["lr"]) for group in optimizer.param_groups}
        found.append(rate)
        optimizer._opt_called = True  # type: ignore[attr-defined]
        scheduler.step()
    return found


@pytest.mark.parametrize("held", ["plain", "released", "offloaded"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_takes_every_schedule(offloaded: Any, make_job: MakeJob, name: str, held: str) -> None:
    optim = optim_of(make_job, name, "optim.lr=0.01")
    if (held == "offloaded") != optim.offload:
        pytest.skip("not possible together")
    optim = optim.model_copy(update={"release_gradients": held == "released"})
    device = torch.device("cuda" if held == "offloaded" else "cpu")
    for shape in SCHEDULES:
        for warmup in (0, 2, 6, 9):
            schedule = LrScheduler(name=shape, warmup_steps=warmup, num_cycles=1, power=2.0)  # type: ignore[arg-type]
            whole = rates(build_optimizer(parameters(), optim, device), schedule, 6)
            assert max(whole) <= 0.01 + 1e-9
            plain = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.01)
            assert whole == pytest.approx(rates(plain, schedule, 6), rel=1e-6), (shape, warmup)
            optimizer = build_optimizer(parameters(), optim, device)
            build_lr_scheduler(optimizer, schedule, steps=3)
            assert rates(optimizer, schedule, 6, done=4) == whole[4:], "as if it had always been this schedule"


def test_polynomial_ends_where_it_says() -> None:
    weight = nn.Parameter(torch.zeros(1))
    schedule = LrScheduler(name="polynomial", warmup_steps=0, power=1.0)
    optimizer = torch.optim.AdamW([{"params": [weight], "lr": 1e-4}])  # whose own default is another rate
    scheduler = build_lr_scheduler(optimizer, schedule, steps=2, done=0)
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx((1e-4 + 1e-7) / 2)
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-7)
    with pytest.raises(UserError, match=r"optim\.lr=1e-08"):
        build_lr_scheduler(torch.optim.AdamW([{"params": [weight], "lr": 1e-8}]), schedule, steps=2)
