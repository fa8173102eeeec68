"""FSDP2 in one process: what is gathered, in which type, and how gradients are averaged."""

from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from diffusers import CogVideoXTransformer3DModel
from torch import nn
from torch.distributed.tensor import DTensor

from cogvx_exp.core.errors import UserError
from cogvx_exp.diffusion.batch import Batch
from cogvx_exp.diffusion.denoise import denoising_loss
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.device import Compute
from cogvx_exp.optim.build import build_optimizer
from cogvx_exp.strategies import shards
from cogvx_exp.strategies.fsdp import FullySharded
from cogvx_exp.training.run import accelerator_for
from tests.conftest import MakeJob

BF16 = Compute(torch.device("cpu"), torch.bfloat16)


Build = Callable[..., FullySharded]


@pytest.fixture
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def build(make_job: MakeJob, group: None) -> Iterator[Build]:
    """Builds a strategy of the tiny model in bfloat16."""
    with accelerator_for(BF16) as accelerator:
        yield partial(_build, make_job, accelerator)


def _build(make_job: MakeJob, accelerator: Accelerator, *settings: str) -> FullySharded:
    job = make_job("model=tiny-5b", "model.dtype=bfloat16", "distributed=fsdp", *settings)
    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(**job.model.transformer.model_dump()).to(torch.bfloat16)
    make_trainable(transformer.requires_grad_(False), job.method, 0, None)
    make_optimizer = partial(build_optimizer, optim=job.optim, device=BF16.device)
    return FullySharded(transformer, make_optimizer, accelerator, torch.float32)


def loss(strategy: FullySharded) -> torch.Tensor:
    config = dict(strategy.transformer.config)
    latents = torch.randn(1, 3, config["in_channels"], 4, 6)
    texts = torch.randn(1, config["max_text_seq_length"], config["text_embed_dim"])
    batch = Batch(latents, torch.randn_like(latents), torch.tensor([500]), texts, [], [])
    with BF16.autocast():
        return denoising_loss(torch.linspace(0.999, 0, 1000), config, torch.bfloat16)(strategy.model, batch).mean()


def test_all_weights_are_gathered_in_16_bits_and_trained_in_32(build: Build) -> None:
    strategy, gathered = build("method=sft"), []
    linear = strategy.transformer.transformer_blocks[0].attn1.to_q
    hook = linear.register_forward_pre_hook(lambda module, inputs: gathered.append(module.weight))
    loss(strategy).backward()
    hook.remove()
    assert gathered[0].dtype == torch.bfloat16
    assert not isinstance(gathered[0], DTensor)
    for name, parameter in trainable_parameters(strategy.transformer).items():
        assert isinstance(parameter, DTensor), name
        assert parameter.dtype == parameter.grad.dtype == torch.float32, name
    assert strategy.clip(None) > 0
    strategy.step()


def test_nothing_stays_whole_after_a_pass_without_gradients(build: Build) -> None:
    """Else the next step would compute with the weights of that pass: those of the running average."""
    strategy = build("method=sft")
    with torch.no_grad():
        loss(strategy)
    assert all(isinstance(parameter, DTensor) for parameter in strategy.transformer.parameters())


def test_gradients_of_an_adapter_are_averaged_in_one_message(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes are played: the other one's gradients are zero."""
    strategy, sent = build(), []
    loss(strategy).backward()
    parameters = trainable_parameters(strategy.transformer)
    before = {name: parameter.grad.clone() for name, parameter in parameters.items()}
    assert sum(float(gradient.abs().sum()) for gradient in before.values()) > 0
    monkeypatch.setattr(dist, "all_reduce", sent.append)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(strategy.optimizer, "zero_grad", lambda **_: None)
    norm = strategy.clip(None)
    assert [len(message) for message in sent] == [sum(gradient.numel() for gradient in before.values())]
    for name, parameter in parameters.items():
        assert not isinstance(parameter, DTensor)
        assert torch.equal(parameter.grad, before[name] / 2), name
    assert norm == pytest.approx(float(torch.stack([value.norm() for value in before.values()]).norm()) / 2)


def test_quantized_states_are_split_evenly_only(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    mesh = init_device_mesh("cpu", (1,))
    weight = nn.Parameter(distribute_tensor(torch.zeros(100, 128), mesh))
    optimizer = SimpleNamespace(block_size=256, param_groups=[{"params": [weight]}])
    for world_size in (2, 5):
        monkeypatch.setattr(shards.dist, "get_world_size", lambda world_size=world_size: world_size)
        shards.check_even(optimizer)  # type: ignore[arg-type]
    monkeypatch.setattr(shards.dist, "get_world_size", lambda: 3)
    with pytest.raises(UserError, match="100 rows of a weight are not divisible by 3 processes"):
        shards.check_even(optimizer)  # type: ignore[arg-type]
    shards.check_even(torch.optim.AdamW([weight]))
