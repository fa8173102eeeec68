"""Rules about the card that a time is predicted for."""

from collections.abc import Iterator

from cogvx_exp.config.issues import Issue
from cogvx_exp.config.schema import TrainJob

OPEN = ("device", "price_per_hour")
"""Settings without which a time can be predicted."""


def card_is_known(job: TrainJob) -> Iterator[Issue]:
    """An issue for each figure that a card lacks; with `hardware=auto` it is that of the card found."""
    if job.hardware.name == "auto":
        return
    for name, value in job.hardware:
        if value is None and name not in OPEN:
            problem = f"is needed with hardware={job.hardware.name}; hardware=auto takes the card's own"
            yield Issue(f"hardware.{name}=null", problem)
