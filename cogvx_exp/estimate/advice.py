"""Settings that make a run fit, cheapest in speed first."""

from collections.abc import Callable
from dataclasses import dataclass

from cogvx_exp.config.faults import ConfigError
from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.estimate.prediction import Prediction

Recompose = Callable[[list[str]], TrainJob]
"""The job with further overrides; raises ConfigError where they do not go together."""


@dataclass(frozen=True)
class Remedy:
    """Overrides that lower the memory of some runs."""

    overrides: tuple[str, ...]
    price: str
    applies: Callable[[TrainJob], bool]


def _trains_all(job: TrainJob) -> bool:
    return job.method.kind == "full"


def _is_adapter(job: TrainJob) -> bool:
    return not _trains_all(job)


def _has_lora(job: TrainJob) -> bool:
    return job.method.adapter == "lora" and job.quant.name == "none"


def _decodes_beside(job: TrainJob) -> bool:
    return isinstance(job.validation, Validation) and not job.validation.offload


REMEDIES = (
    Remedy(("validation.offload=true",), "the transformer moves to the host for each validation", _decodes_beside),
    Remedy(("memory.vae_tiling=true",), "the VAE works in tiles that overlap", lambda job: not job.memory.vae_tiling),
    Remedy(
        ("memory.activations=offload",),
        "one more forward pass a step than with keep; hardly any against checkpoint",
        lambda job: job.memory.activations != "offload",
    ),
    Remedy(("memory.ff_chunks=4",), "feed-forward layers once more", lambda job: job.memory.ff_chunks < 4),
    Remedy(
        ("optim=adamw8bit",),
        "none",
        lambda job: _is_adapter(job) and job.optim.state_values > 1 and not job.optim.offload,
    ),
    Remedy(
        ("memory.stream_blocks=true",),
        "little, while copying a block takes less time than computing it",
        lambda job: _is_adapter(job) and not job.memory.stream_blocks and job.quant.name == "none",
    ),
    Remedy(("quant=int8", "memory.stream_blocks=false"), "some accuracy of the base", _has_lora),
    Remedy(("quant=nf4", "memory.stream_blocks=false"), "more accuracy of the base", _has_lora),
    Remedy(
        ("optim=ao_adamw8bit", "optim.stochastic_rounding=true", "optim.release_gradients=true", "max_grad_norm=null"),
        "no clipping; bfloat16 weights",
        _trains_all,
    ),
    Remedy(
        ("optim=cpu_offload_bf16", "optim.release_gradients=false"),
        "the optimizer step is made on the CPU; bfloat16 weights",
        _trains_all,
    ),
    Remedy(("batch_size=1",), "less work at once", lambda job: job.batch_size > 1),
)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Advice:
    """Overrides that together make a run fit."""

    remedies: list[Remedy]
    prediction: Prediction
    """With all of them."""
    fits: bool
    """Whether that is enough."""

    @property
    def overrides(self) -> list[str]:
        """What to add to the command line."""
        return _together(self.remedies)


def _together(remedies: list[Remedy]) -> list[str]:
    """The overrides of several remedies; the last value of a setting counts."""
    return list({text.partition("=")[0]: text for remedy in remedies for text in remedy.overrides}.values())


def advise(
    job: TrainJob, before: Prediction, budget: float, recompose: Recompose, predict: Callable[[TrainJob], Prediction]
) -> Advice:
    """Adds remedies, cheapest first, as long as they help, until the run fits; then drops those not needed.

    Args:
        job: a job that does not fit.
        before: its prediction.
        budget: GiB of the device.
        recompose: makes the job with further overrides.
        predict: predicts a job.
    """
    best = Advice([], before, False)
    for remedy in REMEDIES:
        if not remedy.applies(job):
            continue
        tried = _try([*best.remedies, remedy], budget, recompose, predict)
        if tried and tried.prediction.peak < best.prediction.peak:
            best = tried
            job = recompose(best.overrides)
        if best.fits:
            break
    for remedy in best.remedies[:-1] if best.fits else []:
        tried = _try([kept for kept in best.remedies if kept is not remedy], budget, recompose, predict)
        if tried and tried.fits:
            best = tried
    return best


def _try(
    remedies: list[Remedy], budget: float, recompose: Recompose, predict: Callable[[TrainJob], Prediction]
) -> Advice | None:
    try:
        prediction = predict(recompose(_together(remedies)))
    except ConfigError:
        return None
    return Advice(remedies, prediction, prediction.fits(budget))
