"""The entry points on the random twin of the 5b, which is smaller than the trained tiny model, with eight plain clips.

A test that names another model or other data gets what it names.
"""

from collections.abc import Sequence

from cogvx_exp import generate as generate_module
from cogvx_exp import memory as memory_module
from cogvx_exp import prepare as prepare_module
from cogvx_exp import train as train_module

MODEL = ("model=tiny-5b",)
CLIPS = ("data.concept=none", "data.clips=8", "data.holdout=0", "data.id_token=TOYSHAPES")


def with_twin(settings: Sequence[str]) -> list[str]:
    """The settings of a training run, and the twin and its clips where they name nothing else."""
    return _with((*MODEL, *(() if "data" in _keys(settings) else CLIPS)), settings)


def train(settings: Sequence[str]) -> int:
    """`python -m cogvx_exp.train`."""
    return train_module.main(with_twin(settings))


def prepare(settings: Sequence[str]) -> int:
    """`python -m cogvx_exp.prepare`."""
    return prepare_module.main(with_twin(settings))


def memory(settings: Sequence[str]) -> int:
    """`python -m cogvx_exp.memory`."""
    return memory_module.main(with_twin(settings))


def generate(settings: Sequence[str]) -> int:
    """`python -m cogvx_exp.generate`; what a run or a video was made with comes from there."""
    sources = _keys(settings) & {"generate.adapter", "generate.replay"}
    return generate_module.main(list(settings) if sources else _with(MODEL, settings))


def _with(added: Sequence[str], settings: Sequence[str]) -> list[str]:
    keys = _keys(settings)
    return [*(text for text in added if text.partition("=")[0] not in keys), *settings]


def _keys(settings: Sequence[str]) -> set[str]:
    return {text.lstrip("+~").partition("=")[0] for text in settings}
