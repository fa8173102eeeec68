"""The linear layers of a transformer and their trained weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

ADAPTERS = (".lora_", ".hada_", ".lokr_")
"""What follows the layer's name in the names of an adapter's weights."""


@dataclass(frozen=True)
class Linear:
    """A linear layer and the number of its input vectors."""

    name: str
    inputs: int
    outputs: int
    rows: int

    @property
    def product(self) -> float:
        """Operations of one product with its weight."""
        return 2.0 * self.rows * self.inputs * self.outputs


Group = tuple[Linear, ...]
"""Layers that share an input."""
ATTENTION: Group = ()
"""Marks the position of attention among the groups of a block."""


@dataclass(frozen=True)
class Adapter:
    """The products of a layer's adapter."""

    products: tuple[float, ...] = ()
    """Operations of each, in order."""
    norms: float = 0.0
    """DoRA: operations for the norm of the adapted weight, which has no gradient."""

    @property
    def forward(self) -> float:
        """Operations of the forward pass."""
        return sum(self.products) + self.norms


class Trained:
    """The trained weights, by module."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]):
        self._shapes = shapes
        parts = [name.split(".") for name in shapes]
        # All prefixes at once: `has` is asked for every layer of every block.
        self._prefixes = {".".join(some[:end]) for some in parts for end in range(1, len(some) + 1)}
        self._adapters: dict[str, list[str]] = {}
        """Names of adapter weights, by layer."""
        for name, kind in product(shapes, ADAPTERS):
            if kind in name:
                self._adapters.setdefault(name.partition(kind)[0], []).append(name)

    def has(self, prefix: str) -> bool:
        """Whether a weight with this name, or in a module with this name, is trained."""
        return prefix in self._prefixes

    def adapter(self, layer: Linear) -> Adapter:
        """The adapter of a layer."""
        names = self._adapters.get(layer.name)
        if names is None:
            return Adapter()
        rank = next((self._shapes[name][0] for name in names if ".lora_A." in name), None)
        if rank is None:  # LoHa, LoKr: a product with the full weight update
            return Adapter((layer.product,))
        products = tuple(2.0 * layer.rows * rank * side for side in (layer.inputs, layer.outputs))
        # DoRA forms the update of the whole weight, whatever the number of tokens.
        whole = 2.0 * layer.inputs * rank * (layer.inputs + layer.outputs)
        return Adapter(products, whole * any(".lora_magnitude_vector." in name for name in names))
