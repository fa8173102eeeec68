"""Counts the floating-point operations of a training step from the architecture and the names of trained weights.

A product of (m, k) and (k, n) is 2mkn operations, as in torch.utils.flop_counter. Only matrix products are counted.
Tests compare the count with torch's (tests/unit/test_flops.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

from cogvx_exp.estimate.time.layers import ATTENTION, Group, Linear, Trained

RECOMPUTED = ("checkpoint", "selective", "offload")
"""Values of memory.activations that recompute blocks in the backward pass."""


@dataclass(frozen=True)
class Flops:
    """Operations of a forward and backward pass, by part."""

    linear: float = 0.0
    """Linear layers of the base, forward."""
    linear_backward: float = 0.0
    """Gradients of their inputs."""
    weight_gradients: float = 0.0
    """Gradients of their trained weights."""
    adapter: float = 0.0
    """The adapter, forward and backward."""
    attention: float = 0.0
    """Queries by keys, and scores by values, forward."""
    attention_backward: float = 0.0
    """The four products of its backward pass."""
    linear_again: float = 0.0
    """Linear layers and adapters recomputed in the backward pass."""
    attention_again: float = 0.0
    """Attention recomputed with its block."""
    scores_again: float = 0.0
    """Queries by keys, which every FlashAttention kernel recomputes in its backward pass."""

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(**{item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)})

    def times(self, count: float) -> "Flops":
        """Operations of `count` such passes."""
        return Flops(**{item.name: count * getattr(self, item.name) for item in fields(self)})

    @property
    def total(self) -> float:
        """All operations."""
        return float(sum(getattr(self, item.name) for item in fields(self)))

    @property
    def again(self) -> float:
        """Operations recomputed to save memory."""
        return self.linear_again + self.attention_again + self.scores_again

    @property
    def model(self) -> float:
        """Operations without recomputation, as in PaLM's "model FLOPs utilization" (arXiv:2204.02311, appendix B)."""
        return self.total - self.again

    @property
    def products(self) -> float:
        """Operations of linear layers and adapters."""
        return self.linear + self.linear_backward + self.weight_gradients + self.adapter + self.linear_again


@dataclass(frozen=True)
class Shape:
    """A batch of latents."""

    clips: int
    frames: int
    """Latent frames, a multiple of the temporal patch size."""
    height: int
    width: int
    text: int
    """Tokens of a caption."""


class FlopCount:
    """Counts the operations of one model's passes.

    Args:
        config: configuration of the transformer.
        trained: shapes of the trained weights by name.
        activations: memory.activations.
        ff_chunks: memory.ff_chunks.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        trained: Mapping[str, tuple[int, ...]],
        activations: str = "keep",
        ff_chunks: int = 1,
    ):
        self._config, self._trained = config, Trained(trained)
        self._again, self._keeps_attention = activations in RECOMPUTED, activations == "selective"
        self._chunked = ff_chunks > 1
        self._width = config["num_attention_heads"] * config["attention_head_dim"]

    def tokens(self, shape: Shape) -> int:
        """Tokens of one clip and its caption."""
        return self._video_tokens(shape) + shape.text

    def forward(self, shape: Shape) -> Flops:
        """Operations of a forward pass without gradients."""
        number_of_blocks = range(self._config["num_layers"])
        groups = [*self._entry(shape), *self._exit(shape)]
        groups += [group for number in number_of_blocks for group in self._block(number, shape)]
        layers = [layer for group in groups for layer in group]
        return Flops(
            linear=sum(layer.product for layer in layers),
            adapter=sum(self._trained.adapter(layer).forward for layer in layers),
            attention=2 * len(number_of_blocks) * self._scores(shape),
        )

    @lru_cache(maxsize=64)  # noqa: B019 (at most two instances per run)
    def training(self, shape: Shape) -> Flops:
        """Operations of a forward and backward pass."""
        done, gradients = Flops(), _Gradients(self._trained)
        for group in self._entry(shape):
            done += gradients.through(group)
        for number in range(self._config["num_layers"]):
            done += self._training_block(number, shape, gradients)
        for group in self._exit(shape):
            done += gradients.through(group)
        return done

    def _training_block(self, number: int, shape: Shape, gradients: "_Gradients") -> Flops:
        scores, forward, done = self._scores(shape), Flops(), Flops()
        for group in self._block(number, shape):
            if group == ATTENTION:
                # From the first trained layer on, every later activation needs a gradient.
                gradients.hidden |= self._trained.has(f"transformer_blocks.{number}.attn1")
                needed = gradients.hidden
                forward += Flops(attention=2 * scores)
                # Backward: dV, dP, dQ and dK, each as large as one of the two forward products.
                done += Flops(attention=2 * scores, attention_backward=4 * scores * needed)
                done += Flops(scores_again=scores * needed)
                continue
            done += gradients.through(group)
            for layer in group:
                forward += Flops(linear=layer.product, adapter=self._trained.adapter(layer).forward)
                if self._chunked and ".ff." in layer.name and gradients.hidden:
                    done += self._chunk_again(layer)
        # A block whose inputs and weights need no gradient is not checkpointed by autograd, so nothing is recomputed.
        if self._again and gradients.hidden:
            attention = 0.0 if self._keeps_attention else forward.attention
            done += Flops(linear_again=forward.linear + forward.adapter, attention_again=attention)
        return done

    def _chunk_again(self, layer: Linear) -> Flops:
        """Recomputed operations of a chunked feed-forward layer, all chunks together.

        Checkpointing stops once all saved tensors are restored, which is before a chunk's last product.
        """
        products = [layer.product, *self._trained.adapter(layer).products]
        return Flops(linear_again=sum(products[:-1] if layer.name.endswith("net.2") else products))

    def _entry(self, shape: Shape) -> Iterator[Group]:
        config, width = self._config, self._width
        time, ofs = config["time_embed_dim"], config["ofs_embed_dim"]
        yield (Linear("time_embedding.linear_1", width, time, shape.clips),)
        yield (Linear("time_embedding.linear_2", time, time, shape.clips),)
        if ofs:
            yield (Linear("ofs_embedding.linear_1", ofs, ofs, 1),)
            yield (Linear("ofs_embedding.linear_2", ofs, ofs, 1),)
        values = config["in_channels"] * self._patch
        yield (
            Linear("patch_embed.proj", values, width, shape.clips * self._video_tokens(shape)),
            Linear("patch_embed.text_proj", config["text_embed_dim"], width, shape.clips * shape.text),
        )

    def _block(self, number: int, shape: Shape) -> Iterator[Group]:
        width, time, prefix = self._width, self._config["time_embed_dim"], f"transformer_blocks.{number}"
        tokens = shape.clips * self.tokens(shape)
        yield (Linear(f"{prefix}.norm1.linear", time, 6 * width, shape.clips),)
        yield tuple(Linear(f"{prefix}.attn1.{name}", width, width, tokens) for name in ("to_q", "to_k", "to_v"))
        yield ATTENTION
        yield (Linear(f"{prefix}.attn1.to_out.0", width, width, tokens),)
        yield (Linear(f"{prefix}.norm2.linear", time, 6 * width, shape.clips),)
        yield (Linear(f"{prefix}.ff.net.0.proj", width, 4 * width, tokens),)
        yield (Linear(f"{prefix}.ff.net.2", 4 * width, width, tokens),)

    def _exit(self, shape: Shape) -> Iterator[Group]:
        config, width = self._config, self._width
        yield (Linear("norm_out.linear", config["time_embed_dim"], 2 * width, shape.clips),)
        yield (
            Linear("proj_out", width, config["out_channels"] * self._patch, shape.clips * self._video_tokens(shape)),
        )

    @property
    def _patch(self) -> int:
        """Latent values per patch and channel."""
        return int(self._config["patch_size"] ** 2 * (self._config["patch_size_t"] or 1))

    def _video_tokens(self, shape: Shape) -> int:
        return shape.frames * shape.height * shape.width // self._patch

    def _scores(self, shape: Shape) -> float:
        """Operations of one of the two products in a block's attention, all heads."""
        return 2.0 * shape.clips * self.tokens(shape) ** 2 * self._width


@dataclass
class _Gradients:
    """Tracks which activations require gradients, in the order of the forward pass."""

    trained: Trained
    hidden: bool = False
    """Whether those of the video and the caption do."""
    vector: bool = False
    """Whether the timestep and ofs embeddings do."""

    def through(self, group: Group) -> Flops:
        """Operations of layers that share an input, forward and backward."""
        name = group[0].name
        embeds = name.startswith(("time_embedding", "ofs_embedding"))
        modulates = ".norm" in name or name.startswith("norm_out")
        has_gradient = self.vector if embeds or modulates else self.hidden
        # Their inputs are data or sinusoids, which need no gradient.
        if name.startswith("patch_embed") or name.endswith("linear_1"):
            has_gradient = False
        # The norm's own weight or the learned positions may also be trained.
        modules = (
            [name.rpartition(".")[0]]
            if modulates or name.startswith("patch_embed")
            else [layer.name for layer in group]
        )
        changes = has_gradient or any(map(self.trained.has, modules))
        if embeds:
            self.vector |= changes
        else:
            self.hidden |= changes
        return sum((self._operations(layer, has_gradient) for layer in group), Flops())

    def _operations(self, layer: Linear, has_gradient: bool) -> Flops:
        adapter = self.trained.adapter(layer)
        inputs = adapter.products if has_gradient else adapter.products[1:]
        return Flops(
            linear=layer.product,
            linear_backward=layer.product * has_gradient,
            weight_gradients=layer.product * self.trained.has(f"{layer.name}.weight"),
            adapter=adapter.forward + sum(inputs) + sum(adapter.products),
        )
