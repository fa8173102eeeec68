"""Every combination of the groups becomes a typed job or is refused with the expected words."""

from importlib.util import find_spec
from itertools import cycle, product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from cogvx_exp.config.command_line.config_files import read_files_with_old_names
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed

OPTIMIZERS = ("adamw", "adamw8bit", "cpu_offload", "cpu_offload_bf16")
DISTRIBUTIONS = ("single", "ddp", "zero2")
"""One of each kind."""
DOES = {
    **dict.fromkeys(("tiny", "tiny-5b", "tiny-2b", "tiny-1.5", "2b", "5b", "1.5-5b"), "t2v"),
    **dict.fromkeys(("tiny-i2v", "tiny-5b-i2v", "tiny-1.5-i2v", "5b-i2v", "1.5-5b-i2v"), "i2v"),
}


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (Path(conf_dir()) / group).glob("[!_]*.yaml"))


def verdict(**chosen: str) -> list[tuple[str, str]]:
    """The issues of a combination, as (group=choice, problem)."""
    overrides = [f"{group}={choice}" for group, choice in chosen.items()]
    overrides += ["data.sources=[{source: folder, root: x}]"] if chosen.get("data") == "mix" else ["data.root=x"]
    job = typed(compose("train", overrides), TrainJob)
    return [(issue.setting, issue.problem) for issue in check_train(job)]


def expected(**chosen: str) -> list[tuple[str, str]]:
    issues: list[tuple[str, str]] = []
    model, task = chosen.get("model", "tiny"), chosen.get("task", "t2v")
    if task not in (DOES[model], "control"):
        issues.append((f"task={task}", f"model={model} only supports {DOES[model]}"))
    if task == "control":
        issues.append(("data.control=files", "data=demo has no such videos"))
    if chosen.get("data") == "custom":
        issues.append(("data.reader=null", "needs your function"))
    optim = chosen.get("optim", "adamw")
    if optim.startswith("cpu_offload") and model == "2b":
        issues.append((f"optim={optim}", "add model.dtype=bfloat16"))
    if optim == "cpu_offload_bf16" and (model == "2b" or model.startswith("tiny")):
        issues.append(("optim.stochastic_rounding=true", "add model.dtype=bfloat16"))
    distributed = chosen.get("distributed", "single")
    together = f"distributed={distributed}"
    if distributed != "single" and optim.startswith("cpu_offload"):
        issues.append((together, "only supports one process"))
    if distributed not in ("single", "ddp"):
        if optim not in ("adamw", "adam", "cpu_offload"):
            issues.append((f"optim={optim}", "only shards the states of adamw and adam"))
        if model == "2b":
            issues.append((together, "add model.dtype=bfloat16"))
    if chosen.get("attention") == "flex":
        issues.append(("attention=flex", "add compile=blocks"))
    if chosen.get("tracker") == "trackio" and find_spec("trackio") is None:
        issues.append(("tracker=trackio", "is not installed"))
    return issues


def check(**chosen: str) -> None:
    found, wanted = verdict(**chosen), expected(**chosen)
    for setting, words in wanted:
        assert any(setting == given and words in problem for given, problem in found), (chosen, setting, found)
    assert len(found) == len(wanted), (chosen, found)


@pytest.fixture(autouse=True, scope="module")
def _hydra():
    read_files_with_old_names()  # which parses each of them once
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield


OTHERS = ("data", "lr_scheduler", "validation", "memory", "quant", "tracker", "attention", "hardware")


def test_no_group_is_forgotten() -> None:
    in_the_product = {"model", "task", "method", "optim", "distributed"}
    assert {path.name for path in conf_dir().iterdir() if path.is_dir()} == {
        *in_the_product,
        *OTHERS,
        "control",  # named by data.control
        "objective",
        "experiment",
    }
    assert set(choices("model")) == set(DOES)


TWINS = [model for model in sorted(DOES) if model.startswith("tiny-") and model != "tiny-i2v"]
"""They are configured as the real ones are."""


# Pairs rather than the whole product: a rule reads one or two groups, and composing takes a tenth of a second.
@pytest.mark.parametrize("model", ["tiny", "2b", "5b-i2v"])
def test_optimizers_and_distributions(model: str) -> None:
    for optim, distributed in product(OPTIMIZERS, DISTRIBUTIONS):
        check(model=model, task=DOES[model], optim=optim, distributed=distributed)


@pytest.mark.parametrize("method", choices("method"))
def test_methods(method: str) -> None:
    for model in sorted(DOES.keys() - TWINS):
        check(model=model, task=DOES[model], method=method)
    for optim, distributed in (("cpu_offload_bf16", "single"), ("adamw8bit", "zero2")):
        check(model="tiny", method=method, optim=optim, distributed=distributed)


@pytest.mark.parametrize("model", sorted(DOES))
def test_tasks_and_optimizers(model: str) -> None:
    for task in choices("task"):
        check(model=model, task=task)
    check(model=model, task=DOES[model], optim="cpu_offload_bf16")


TURNS = ("tiny", "2b", "5b-i2v", "1.5-5b")


@pytest.mark.parametrize("group", [*OTHERS, "distributed", "optim"])
def test_every_choice_of_the_other_groups(group: str) -> None:
    # The optimizers' rules read the model's dtype; elsewhere, the models take turns.
    pairs = (
        product(("tiny", "2b"), choices(group)) if group == "optim" else zip(cycle(TURNS), choices(group), strict=False)
    )
    for model, choice in pairs:
        check(**{"model": model, group: choice})
