"""Suggests settings that make a run fit, cheapest in speed first."""

from collections.abc import Callable
from dataclasses import dataclass

from cogvx_exp.config.issues import ConfigError
from cogvx_exp.config.schema import TrainJob, Validation
from cogvx_exp.estimate.prediction import Prediction

Recompose = Callable[[list[str]], TrainJob]
"""Recomposes the job with further overrides; raises ConfigError if they are incompatible."""


@dataclass(frozen=True)
class Suggestion:
    """Overrides that reduce the memory of some runs."""

    overrides: tuple[str, ...]
    cost: str
    applies: Callable[[TrainJob], bool]


def _trains_all(job: TrainJob) -> bool:
    return job.method.kind == "full"


def _is_adapter(job: TrainJob) -> bool:
    return not _trains_all(job)


def _has_lora(job: TrainJob) -> bool:
    return job.method.adapter == "lora" and job.quant.name == "none"


def _decodes_beside(job: TrainJob) -> bool:
    return isinstance(job.validation, Validation) and not job.validation.offload


SUGGESTIONS = (
    Suggestion(("validation.offload=true",), "the transformer moves to the host for each validation", _decodes_beside),
    Suggestion(
        ("memory.vae_tiling=true",), "the VAE works on overlapping tiles", lambda job: not job.memory.vae_tiling
    ),
    Suggestion(
        ("memory.activations=offload",),
        "one more forward pass per step than keep; almost none compared to checkpoint",
        lambda job: job.memory.activations != "offload",
    ),
    Suggestion(("memory.ff_chunks=4",), "feed-forward layers are recomputed", lambda job: job.memory.ff_chunks < 4),
    Suggestion(
        ("optim=adamw8bit",),
        "none",
        lambda job: _is_adapter(job) and job.optim.state_values > 1 and not job.optim.offload,
    ),
    Suggestion(
        ("memory.stream_blocks=true",),
        "little, if copying a block is faster than computing it",
        lambda job: _is_adapter(job) and not job.memory.stream_blocks and job.quant.name == "none",
    ),
    Suggestion(("quant=int8", "memory.stream_blocks=false"), "some accuracy of the base", _has_lora),
    Suggestion(("quant=nf4", "memory.stream_blocks=false"), "more accuracy of the base", _has_lora),
    Suggestion(
        ("optim=ao_adamw8bit", "optim.stochastic_rounding=true", "optim.release_gradients=true", "max_grad_norm=null"),
        "no clipping; bfloat16 weights",
        _trains_all,
    ),
    Suggestion(
        ("optim=cpu_offload_bf16", "optim.release_gradients=false"),
        "the optimizer step runs on the CPU; bfloat16 weights",
        _trains_all,
    ),
    Suggestion(("batch_size=1",), "lower throughput", lambda job: job.batch_size > 1),
)
"""In the order in which they are tried."""


@dataclass(frozen=True)
class Advice:
    """Overrides that together reduce a run's memory."""

    suggestions: list[Suggestion]
    prediction: Prediction
    """The prediction with all of them."""
    fits: bool
    """Whether the run then fits."""

    @property
    def overrides(self) -> list[str]:
        """Overrides to add to the command line."""
        return _together(self.suggestions)


def _together(suggestions: list[Suggestion]) -> list[str]:
    """The overrides of several suggestions; for duplicates, the last value is used."""
    return list({text.partition("=")[0]: text for suggestion in suggestions for text in suggestion.overrides}.values())


def advise(
    job: TrainJob, before: Prediction, budget: float, recompose: Recompose, predict: Callable[[TrainJob], Prediction]
) -> Advice:
    """Adds suggestions that help, cheapest first, until the run fits; then drops unnecessary ones.

    Args:
        job: a job that does not fit.
        before: its prediction.
        budget: memory of the device in GiB.
        recompose: recomposes the job with further overrides.
        predict: predicts a job.
    """
    best = Advice([], before, False)
    for suggestion in SUGGESTIONS:
        if not suggestion.applies(job):
            continue
        candidate = _try([*best.suggestions, suggestion], budget, recompose, predict)
        # Only what lowers the peak, which may be in another phase than the one that a setting changes.
        if candidate and candidate.prediction.peak < best.prediction.peak:
            best = candidate
            job = recompose(best.overrides)
        if best.fits:
            break
    # A later suggestion may make an earlier one unnecessary.
    for suggestion in best.suggestions[:-1] if best.fits else []:
        candidate = _try([kept for kept in best.suggestions if kept is not suggestion], budget, recompose, predict)
        if candidate and candidate.fits:
            best = candidate
    return best


def _try(
    suggestions: list[Suggestion], budget: float, recompose: Recompose, predict: Callable[[TrainJob], Prediction]
) -> Advice | None:
    try:
        prediction = predict(recompose(_together(suggestions)))
    except ConfigError:
        return None
    return Advice(suggestions, prediction, prediction.fits(budget))
