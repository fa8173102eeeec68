"""Group `hardware`: what the prediction of time assumes about a card."""

from pydantic import Field, PositiveFloat

from cogvx_exp.config.schema.section import Section

Share = Field(default=None, gt=0, le=1)


class Hardware(Section):
    """What the prediction of time assumes of a card; nothing here changes a run. auto: null is the card's own value."""

    name: str = "auto"
    """Name of the choice, as in `hardware=NAME`. Default: auto."""
    device: str | None = None
    """What CUDA's name of the device contains: a measured run belongs to the card whose text is the longest in it."""
    peak_tflops: PositiveFloat | None = None
    """16-bit matrix products with float32 sums, dense, in TFLOP/s, by the vendor's data sheet."""
    float32_tflops: PositiveFloat | None = None
    """float32 products without TensorFloat-32, in TFLOP/s."""
    bandwidth: PositiveFloat | None = None
    """Memory of the device, in GB/s."""
    link: PositiveFloat | None = None
    """Copies between the device and pinned host memory, each way, in GB/s."""
    host_bandwidth: PositiveFloat | None = None
    """Memory of the host, in GB/s, for optimizer steps on the CPU."""
    matmul_efficiency: float | None = Share
    """Share of the peak that the products of linear layers reach."""
    attention_efficiency: float | None = Share
    """Share of the peak that attention reaches in the forward pass."""
    attention_backward_efficiency: float | None = Share
    """Share of the peak that attention reaches in the backward pass."""
    convolution_efficiency: float | None = Share
    """Share of the peak that the VAE's convolutions reach."""
    bandwidth_efficiency: float | None = Share
    """Share of the bandwidth that all other operations reach."""
    operator_microseconds: PositiveFloat | None = None
    """Time that the host needs to start an operation: what bounds small models."""
    price_per_hour: PositiveFloat | None = None
    """Price of one card for an hour, in any currency, for the cost of the run; null: no cost. Default: null."""
