"""Converts work to seconds by the rates that a card reaches."""

from dataclasses import dataclass

from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.estimate.time.work import Work
from cogvx_exp.model.device import resolve_dtype

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Rates:
    """The rates that a card reaches with a job's dtypes: operations and bytes per second."""

    products: float
    attention: float
    attention_backward: float
    convolutions: float
    memory: float
    host_memory: float
    link: float
    operator: float
    """Seconds to launch one."""


def rates(card: Hardware, job: TrainJob) -> Rates:
    """The rates of a card with all values set."""
    peak = _peak(card, job) * TERA
    return Rates(
        products=peak * _value(card.matmul_efficiency),
        attention=peak * _value(card.attention_efficiency),
        attention_backward=peak * _value(card.attention_backward_efficiency),
        convolutions=peak * _value(card.convolution_efficiency),
        memory=_value(card.bandwidth) * GIGA * _value(card.bandwidth_efficiency),
        host_memory=_value(card.host_bandwidth) * GIGA,
        link=_value(card.link) * GIGA,
        operator=_value(card.operator_microseconds) / 1e6,
    )


def seconds(work: Work, reached: Rates) -> dict[str, float]:
    """Seconds of each part. The parts run in sequence; overlapped work counts only as far as it takes longer."""
    flops = work.flops
    forward = (flops.attention + flops.attention_again) / reached.attention
    backward = (flops.attention_backward + flops.scores_again) / reached.attention_backward
    parts = {
        "linear layers": flops.products / reached.products,
        "attention": forward + backward,
        "elementwise": work.elementwise / reached.memory,
        "VAE": work.convolutions / reached.convolutions,
    }
    computing = sum(parts.values())
    return parts | {
        "optimizer": work.optimizer / reached.memory + work.on_host / reached.host_memory,
        # Streamed copies overlap with the computation; what is exchanged with the optimizer on the host does not.
        "copies": work.exchanged / reached.link + max(work.copied / reached.link - computing, 0.0),
        "host": max(work.operators * reached.operator - computing, 0.0),
    }


def again(work: Work, reached: Rates) -> float:
    """Seconds spent on recomputing products and attention."""
    return work.flops.linear_again / reached.products + work.flops.attention_again / reached.attention


def _peak(card: Hardware, job: TrainJob) -> float:
    """TFLOP/s in the job's dtype. On all NVIDIA cards, TensorFloat-32 has half the rate of the 16-bit types."""
    if resolve_dtype(job.model, "cuda").itemsize == 2:
        return _value(card.peak_tflops)
    return _value(card.peak_tflops) / 2 if job.allow_tf32 else _value(card.float32_tflops)


def _value(value: float | None) -> float:
    assert value is not None  # checked by a rule; the cards in conf/hardware set all values
    return value
