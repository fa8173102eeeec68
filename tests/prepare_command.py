"""`python -m cogvx_exp.prepare` for tests that run it often: Hydra composes each choice of data once."""

import copy
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from cogvx_exp.config.issues import ConfigError
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_prepare
from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.errors import UserError
from cogvx_exp.launch.preparation import make_dataset
from tests.entry import MODEL


def prepare(settings: Sequence[str]) -> int:
    """Exit code of the command; errors are printed as the command does."""
    chosen = dict(text.split("=", 1) for text in settings)
    values = copy.deepcopy(_composed(chosen.pop("data")))
    for name, text in chosen.items():
        *sections, last = name.split(".")
        place = values
        for section in sections:
            place = place[section]
        assert last in place, name
        place[last] = yaml.safe_load(text)
    try:
        job = typed(OmegaConf.create(values), PrepareJob)
        if issues := check_prepare(job):
            raise ConfigError(issues)
        make_dataset(job)
    except UserError as error:
        print(f"cogvx_exp.prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


@cache
def _composed(data: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        values = OmegaConf.to_container(compose("prepare", [*MODEL, f"data={data}"]), resolve=True)
    assert isinstance(values, dict)
    return values
