"""Group `hardware`: assumptions about a card for predicting time."""

from pydantic import Field, PositiveFloat

from cogvx_exp.config.schema.section import Section

Share = Field(default=None, gt=0, le=1)


class Hardware(Section):
    """Assumptions about a card for predicting time; runs do not depend on them. auto: null is the card's own value."""

    name: str = "auto"
    """Name of the choice, as in `hardware=NAME`. Default: auto."""
    device: str | None = None
    """Text in the device's CUDA name. Measured runs belong to the card with the longest match."""
    peak_tflops: PositiveFloat | None = None
    """Peak of dense 16-bit matrix products with float32 accumulation, in TFLOP/s, from the vendor's data sheet."""
    float32_tflops: PositiveFloat | None = None
    """Peak of float32 matrix products without TensorFloat-32, in TFLOP/s."""
    bandwidth: PositiveFloat | None = None
    """Bandwidth of device memory, in GB/s."""
    link: PositiveFloat | None = None
    """Bandwidth of copies between the device and pinned host memory, per direction, in GB/s."""
    host_bandwidth: PositiveFloat | None = None
    """Bandwidth of host memory, in GB/s, for optimizer steps on the CPU."""
    matmul_efficiency: float | None = Share
    """Share of the peak that linear layers reach."""
    attention_efficiency: float | None = Share
    """Share of the peak that attention reaches in the forward pass."""
    attention_backward_efficiency: float | None = Share
    """Share of the peak that attention reaches in the backward pass."""
    convolution_efficiency: float | None = Share
    """Share of the peak that the VAE's convolutions reach."""
    bandwidth_efficiency: float | None = Share
    """Share of the bandwidth that all other operations reach."""
    operator_microseconds: PositiveFloat | None = None
    """Time for the host to launch an operation, which limits small models."""
    price_per_hour: PositiveFloat | None = None
    """Hourly price of one card in any currency, used for the cost of the run; null: no cost. Default: null."""
