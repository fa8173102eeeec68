"""From what Hydra composed to a typed, frozen configuration."""

from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError

from cogvx_exp.config.faults import ConfigError, Fault
from cogvx_exp.config.schema import Section

Job = TypeVar("Job", bound=Section)


def typed(config: DictConfig, schema: type[Job]) -> Job:
    """Resolves `config` and gives it its types. After this no DictConfig exists.

    Raises:
        ConfigError: values of a wrong type or out of range, unknown keys, broken references.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([Fault(str(error.full_key), str(error).splitlines()[0])]) from None
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ConfigError([_fault(item) for item in error.errors()]) from None


def _fault(item: Any) -> Fault:
    # A tagged union adds its tag to the location: validation.default.seed is validation.seed.
    parts = [str(part) for part in item["loc"]]
    if len(parts) > 2 and parts[0] == "validation":
        del parts[1]
    setting = ".".join(parts)
    if item["type"] == "missing":
        return Fault(setting, "is missing; take away what removes it, or set it")
    if item["type"] == "extra_forbidden":
        return Fault(f"{setting}={item['input']}", "no such setting")
    shown = "null" if item["input"] is None else item["input"]
    return Fault(f"{setting}={shown}", item["msg"].replace("Input should be", "must be"))
