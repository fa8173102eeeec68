"""Settings that exist in the configuration but are not implemented yet.

They are rejected by name, never ignored.
"""

from collections.abc import Iterator
from typing import Any

from cogvx_exp.config.faults import Fault
from cogvx_exp.config.schema import TrainJob

UNBUILT: dict[str, tuple[Any, ...]] = {
    "compile": (True,),
}


def unbuilt(job: TrainJob) -> Iterator[Fault]:
    """A fault for every setting of `job` that is not implemented."""
    for setting, values in UNBUILT.items():
        value = _get(job, setting)
        if value in values:
            yield _refusal(setting, value)


def _refusal(setting: str, value: Any) -> Fault:
    shown = setting.removesuffix(".name")
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return Fault(f"{shown}={text}", "is not implemented yet")


def _get(job: TrainJob, setting: str) -> Any:
    value: Any = job
    for part in setting.split("."):
        value = getattr(value, part)
    return value
