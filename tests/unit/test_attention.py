"""The attention processor matches diffusers' with every kernel; unsupported combinations are rejected."""

from functools import partial
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from hydra import compose, initialize_config_dir
from torch._subclasses.fake_tensor import FakeTensorMode

from cogvx_exp.config.choices import attention_choices
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import Attention, TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.attention import backends, exact_backward
from cogvx_exp.model.attention.backends import attention_function, check_attention, set_attention
from cogvx_exp.model.attention.int8 import int8_attention
from cogvx_exp.model.device import Compute
from cogvx_exp.model.positions import rotary_positions
from tests.conftest import MakeJob

SHAPES = ["tiny-2b", "tiny-5b", "tiny-5b-i2v", "tiny-1.5", "tiny-1.5-i2v"]
KERNELS = {choice["name"]: Attention.model_validate(choice) for choice in attention_choices()}
CPU = Compute(torch.device("cpu"), torch.float32)


def build(make_job: MakeJob, model: str, dtype: torch.dtype) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    config = make_job(f"model={model}", f"task={'i2v' if 'i2v' in model else 't2v'}").model.transformer
    transformer = CogVideoXTransformer3DModel(**{**config.model_dump(), "use_learned_positional_embeddings": False})
    for name, parameter in transformer.named_parameters():
        if "norm" in name:  # default ones and zeros would hide errors
            torch.nn.init.normal_(parameter, mean=float(name.endswith("weight")), std=0.2)
    return transformer.to(dtype)


def forward_backward(transformer: CogVideoXTransformer3DModel, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output and all gradients."""
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, config.in_channels, 6, 10, generator=generator).to(dtype)
    transformer.zero_grad()
    output = transformer(
        latents,
        torch.randn(2, config.max_text_seq_length, config.text_embed_dim, generator=generator).to(dtype),
        torch.tensor([100, 900]),
        ofs=torch.full((1,), 2.0, dtype=dtype) if config.ofs_embed_dim else None,
        image_rotary_emb=rotary_positions(dict(config), (4, 6, 10), latents.device),
        return_dict=False,
    )[0]
    output.float().square().mean().backward()
    return [output.detach().float(), *(p.grad.float() for p in transformer.parameters() if p.grad is not None)]


def largest_error(results: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    assert len(results) == len(expected)
    scale = max(
        float(tensor.abs().max()) for tensor in expected[1:]
    )  # one scale for all gradients: some are zero up to rounding
    errors = [float((a - b).abs().max()) / scale for a, b in zip(results[1:], expected[1:], strict=True)]
    return max(*errors, float((results[0] - expected[0]).abs().max() / expected[0].abs().max()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
@pytest.mark.parametrize("model", SHAPES)
def test_it_computes_what_the_stock_processor_computes(
    make_job: MakeJob, model: str, dtype: torch.dtype, tolerance: float
) -> None:
    transformer = build(make_job, model, dtype)
    transformer.set_attn_processor(CogVideoXAttnProcessor2_0())
    expected = forward_backward(transformer, dtype)
    set_attention(transformer, Attention())
    assert largest_error(forward_backward(transformer, dtype), expected) < tolerance


@pytest.mark.parametrize("name", [name for name, kernel in KERNELS.items() if kernel.device == "any"])
def test_each_kernel_of_the_cpu_computes_the_same(make_job: MakeJob, name: str) -> None:
    transformer = build(make_job, "tiny-5b", torch.float32)
    set_attention(transformer, Attention())
    expected = forward_backward(transformer, torch.float32)
    set_attention(transformer, KERNELS[name])
    error = largest_error(forward_backward(transformer, torch.float32), expected)
    assert error < 1e-6 if name != "int8" else 1e-6 < error < 2e-2


def test_the_kernel_that_is_named_is_the_one_that_runs(make_job: MakeJob) -> None:
    called = []

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        called.append(tuple(query.shape))
        return value

    backends.kernel_of_the_test = kernel  # type: ignore[attr-defined]
    transformer = build(make_job, "tiny-5b", torch.float32)
    set_attention(transformer, Attention(forward="cogvx_exp.model.attention.backends.kernel_of_the_test"))
    forward_backward(transformer, torch.float32)
    heads, head_dim = transformer.config.num_attention_heads, transformer.config.attention_head_dim
    assert called == [(2, 226 + 4 * 3 * 5, heads, head_dim)] * transformer.config.num_layers


@pytest.mark.parametrize(
    ("name", "device", "dtype", "capability", "words"),
    [
        ("cudnn", "cpu", torch.float32, None, "needs an NVIDIA GPU; use auto, flash, int8, math, sdpa"),
        (
            "flash",
            "cuda",
            torch.float32,
            (9, 0),
            "supports float16 and bfloat16, but the model computes in float32; use auto",
        ),
        (
            "flash",
            "cuda",
            torch.float16,
            (7, 5),
            "needs compute capability 8, but this GPU has 7.5; use auto, efficient",
        ),
        ("flash3", "cuda", torch.bfloat16, (8, 9), "needs compute capability 9, but this GPU has 8.9; use auto, cudnn"),
        ("sage", "cuda", torch.bfloat16, (9, 0), "needs the package sageattention, which is not installed; use auto"),
    ],
)
def test_what_a_machine_cannot_do_is_refused_with_what_it_can(
    name: str, device: str, dtype: torch.dtype, capability: tuple[int, int] | None, words: str, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    with pytest.raises(UserError, match=f"^attention={name}: {words}"):
        check_attention(KERNELS[name], Compute(torch.device(device), dtype))


@pytest.mark.parametrize("forward", ["nothing", "cogvx_exp.nothing.at_all"])
def test_a_kernel_that_does_not_exist_is_named(forward: str) -> None:
    with pytest.raises(UserError, match=f"^attention.forward={forward} is not an? "):
        attention_function(Attention(forward=forward))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["attention=sage", "device=cpu"], "needs an NVIDIA GPU; use auto"),
        (["attention=auto", "attention.backward=none"], "has no backward pass; for training use auto"),
        (["attention=flex"], "add compile=blocks"),
        (["attention=flash", "device=cuda", "model.dtype=float32"], "supports float16 and bfloat16"),
    ],
)
def test_what_is_known_without_a_gpu_is_refused_with_the_configuration(settings: list[str], words: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", settings), TrainJob)
    (issue,) = check_train(job)
    assert issue.setting == settings[0]
    assert words in issue.problem


def inputs(tokens: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Query, key and value as after the norms, with keys of nonzero mean, and the gradient of the output."""
    generator = torch.Generator().manual_seed(2)
    query, key, value, gradient = torch.randn(4, 1, tokens, 4, 64, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype) for tensor in (2 * query, key + 0.5, value, gradient)]


def gradients(attention, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    *leaves, gradient = tensors
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    output = attention(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, gradient)]


def exact(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    q, k, v = (tensor.transpose(1, 2) for tensor in (query, key, value))
    scores = (q @ k.transpose(-1, -2)) / q.size(-1) ** 0.5
    return (scores.softmax(-1) @ v).transpose(1, 2)


def exact_with_lse(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    q, k = query.transpose(1, 2), key.transpose(1, 2)
    return exact(query, key, value), (q @ k.transpose(-1, -2) / q.size(-1) ** 0.5).logsumexp(-1)


def test_with_an_exact_forward_pass_the_gradients_are_exact() -> None:
    tensors = inputs(300)
    attention = partial(exact_backward.attend_exactly_backward, exact_with_lse)
    found = gradients(attention, [tensor.float() for tensor in tensors])
    for result, expected in zip(found, gradients(exact, tensors), strict=True):
        assert (result - expected).norm() < 3e-6 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradients_of_8_bit_attention_have_the_error_of_its_forward_pass(dtype: torch.dtype, capsys) -> None:
    expected = gradients(exact, inputs(1000))
    attention = partial(exact_backward.attend_exactly_backward, int8_attention)
    found = gradients(attention, inputs(1000, dtype))
    errors = [float((a.double() - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    with capsys.disabled():
        print(f"\n8-bit attention in {dtype}, relative error: " + ", ".join(f"{error:.1e}" for error in errors))
    output, *others = errors
    assert 1e-3 < output < 2.5e-2
    assert max(others) < 3e-2


def test_a_kernel_that_quantizes_gets_the_exact_backward_pass(make_job: MakeJob) -> None:
    attend: Any = attention_function(make_job("attention=int8").attention)
    assert attend.func is exact_backward.attend_exactly_backward
    own: Any = attention_function(make_job("attention=math").attention)
    assert own.func is not exact_backward.attend_exactly_backward


def test_the_cuda_kernel_takes_these_arguments() -> None:
    with FakeTensorMode():
        tensors = [torch.empty(1, 4, 300, 64, dtype=torch.bfloat16, device="meta") for _ in range(5)]
        found = exact_backward._backward_on_cuda(*tensors, torch.empty(1, 4, 300, device="meta"))
        assert [gradient.shape for gradient in found] == [tensors[0].shape] * 3
