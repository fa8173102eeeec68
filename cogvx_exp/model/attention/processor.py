"""The attention processor of CogVideoX's blocks."""

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention
from torch.utils.weak import WeakTensorKeyDictionary

from cogvx_exp.model.positions import Rotary

AttentionFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""From query, key and value to the output, all (B, tokens, heads, head_dim)."""


class VideoTextAttention:
    """Joint attention over text and video tokens.

    Computes what diffusers' CogVideoXAttnProcessor2_0 computes, with any attention kernel and fewer passes over
    memory: query and key stay (B, tokens, heads, head_dim), so that the norms read them without a copy, and all tokens
    are rotated at once, those of the text by zero, so that no slice is copied back.
    """

    def __init__(self, attention: AttentionFunction):
        self._attention = attention
        self._rotations = _Rotations()

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Computes attention.

        Args:
            attn: the projections and norms.
            hidden_states: the video, (B, video tokens, channels).
            encoder_hidden_states: the text, (B, text tokens, channels).
            attention_mask: must be None; CogVideoX has none.
            image_rotary_emb: cosines and sines for the video, each (video tokens, head_dim); None: no rotation.

        Returns:
            The video and the text.
        """
        assert attention_mask is None, "CogVideoX attends to all tokens"
        text_tokens = encoder_hidden_states.size(1)
        # Text first, as in diffusers' processor.
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            project(tokens).unflatten(-1, (attn.heads, -1)) for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        if attn.norm_q is not None:
            query, key = attn.norm_q(query), attn.norm_k(key)
        if image_rotary_emb is not None:
            if torch.compiler.is_compiling():
                cos, sin = with_text(image_rotary_emb, text_tokens)
                query, key = rotate_real(query, cos, sin), rotate_real(key, cos, sin)
            else:
                rotation = self._rotations.of(image_rotary_emb, text_tokens)
                query, key = rotate(query, rotation), rotate(key, rotation)
        # Norms may return float32 under autocast; kernels need all three in one dtype.
        attended = self._attention(query.to(value.dtype), key.to(value.dtype), value)
        # to_out is a ModuleList of a projection and a dropout, so it cannot be called itself.
        attended = attn.to_out[1](attn.to_out[0](attended.flatten(2)))
        text, video = attended.split([text_tokens, hidden_states.size(1)], dim=1)
        return video, text


class _Rotations:
    """Rotations as complex numbers. Cached per shape for as long as the caller keeps the cosines."""

    def __init__(self) -> None:
        self._by_cosines: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, rotary: Rotary, text_tokens: int) -> torch.Tensor:
        """Complex numbers of modulus 1, (tokens, 1, head_dim / 2)."""
        # Weakly keyed by the tensor itself: `rotary_positions` returns the same one for a shape, in every block and
        # step.
        known = self._by_cosines.setdefault(rotary[0], {})
        if text_tokens not in known:
            known[text_tokens] = torch.complex(*with_text(rotary, text_tokens))
        rotation: torch.Tensor = known[text_tokens]
        return rotation


def with_text(rotary: Rotary, text_tokens: int) -> Rotary:
    """Cosines and sines of all tokens, each (tokens, 1, head_dim / 2); the angle of text tokens is zero.

    diffusers repeats each value for both channels of a pair.
    """
    cos, sin = (values[:, ::2].float() for values in rotary)
    text = (text_tokens, cos.size(1))
    cos, sin = torch.cat([cos.new_ones(text), cos]), torch.cat([sin.new_zeros(text), sin])
    return cos.unsqueeze(1), sin.unsqueeze(1)


def rotate(x: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Rotates pairs of channels in float32, in three passes over memory; `x`: (B, tokens, heads, head_dim)."""
    # Neighbouring channels are a pair; in transformers' LLaMA it is the two halves of a head.
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def rotate_real(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Same as `rotate`, but without complex numbers, which inductor does not fuse."""
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    rotated = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return rotated.flatten(-2).to(x.dtype)
