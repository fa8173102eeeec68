"""Work over what a card reaches: seconds, part by part."""

from dataclasses import dataclass

from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.estimate.time.work import Work
from cogvx_exp.model.device import resolve_dtype

GIGA, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Rates:
    """What a card reaches with a job's types: operations and bytes a second."""

    products: float
    attention: float
    attention_backward: float
    convolutions: float
    memory: float
    host_memory: float
    link: float
    operator: float
    """Seconds."""


def rates(card: Hardware, job: TrainJob) -> Rates:
    """The rates of a card whose values are all given."""
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
    """Seconds of each part; they follow each other. What runs beside them counts where it takes longer than they do."""
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
        "copies": work.exchanged / reached.link + max(work.copied / reached.link - computing, 0.0),
        "host": max(work.operators * reached.operator - computing, 0.0),
    }


def again(work: Work, reached: Rates) -> float:
    """Seconds of products and attention that are computed again."""
    return work.flops.linear_again / reached.products + work.flops.attention_again / reached.attention


def _peak(card: Hardware, job: TrainJob) -> float:
    """TFLOP/s in the job's type. TensorFloat-32 has half the rate of the 16-bit types on all of NVIDIA's cards."""
    if resolve_dtype(job.model, "cuda").itemsize == 2:
        return _value(card.peak_tflops)
    return _value(card.peak_tflops) / 2 if job.allow_tf32 else _value(card.float32_tflops)


def _value(value: float | None) -> float:
    assert value is not None  # a rule; each card of conf/hardware has them all
    return value
