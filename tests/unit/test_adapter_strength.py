"""An adapter is as strong after an export, or where another run starts from it, as it was trained."""

import re
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.adapt import make_trainable, peft_config_of, trainable_parameters
from cogvx_exp.model.load import load_adapter_weights, load_trained
from cogvx_exp.training.export import export
from tests.adapters import (
    ALPHA,
    HOST,
    RANK,
    Tensors,
    exported_lora,
    kohya,
    new_model,
    output,
    raw_tensors,
    trained_model,
)
from tests.conftest import MakeJob


@pytest.fixture(scope="module")
def job(make_job: MakeJob) -> TrainJob:
    return make_job(f"method.rank={RANK}", f"method.alpha={ALPHA:g}")


@pytest.fixture(scope="module")
def lora(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_lora(job, tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def raw(lora: Path) -> Tensors:
    return raw_tensors(lora)


@pytest.fixture(scope="module")
def wanted(job: TrainJob) -> torch.Tensor:
    return output(trained_model(job)[0])


def tensors_alone(job: TrainJob, file: Path) -> CogVideoXTransformer3DModel:
    """The model for a loader that reads no metadata: it takes alpha = rank."""
    model, weights = new_model(job), load_file(file)
    for key in (key for key in weights if "lora_A" in key):
        layer = model.get_submodule(key.removeprefix("transformer.").removesuffix(".lora_A.weight"))
        layer.weight.data += weights[key.replace("lora_A", "lora_B")] @ weights[key]
    return model


@pytest.mark.parametrize(
    "changes",
    [{}, {"alpha": 2.0}, {"init": "gaussian"}, {"init": "pissa"}, {"init": "olora", "rank": 3, "alpha": 5.0}],
    ids=str,
)
def test_an_export_is_as_strong_in_every_loader(job: TrainJob, tmp_path: Path, changes: dict) -> None:
    model, method = trained_model(job, **changes)
    trained = output(model)
    file = export(model, method, tmp_path, torch.float32, {})
    torch.testing.assert_close(output(tensors_alone(job, file)), trained, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(output(load_trained(new_model(job), file, HOST)), trained, rtol=1e-4, atol=1e-4)
    plain = new_model(job)
    weights, metadata = CogVideoXPipeline.lora_state_dict(str(tmp_path), return_lora_metadata=True)
    CogVideoXPipeline.load_lora_into_transformer(weights, plain, metadata=metadata)
    torch.testing.assert_close(output(plain), trained, rtol=1e-4, atol=1e-4)
    assert (output(new_model(job)) - trained).abs().max() > 0.02


@pytest.mark.parametrize("own_alpha", [float(RANK), ALPHA, 1.0])
@pytest.mark.parametrize("source", ["export", "kohya", "no alpha"])
def test_a_run_that_starts_from_a_lora_starts_as_strong(
    job: TrainJob, lora: Path, raw: Tensors, wanted: torch.Tensor, own_alpha: float, source: str, tmp_path: Path
) -> None:
    file = lora
    if source != "export":
        file = tmp_path / "lora.safetensors"
        save_file(kohya(raw) if source == "kohya" else raw, file)
    model = new_model(job)
    make_trainable(model, job.method.model_copy(update={"alpha": own_alpha}), 0)
    load_adapter_weights(model, file)
    strength = wanted if source != "no alpha" else output(trained_model(job, alpha=RANK)[0])
    torch.testing.assert_close(output(model.eval()), strength, rtol=1e-5, atol=1e-5)
    assert all(parameter.requires_grad for parameter in trainable_parameters(model).values())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 8}, "has rank 4, but method.rank=8; use its rank and targets: method.rank=4"),
        ({"rank": 3}, "has rank 4, but method.rank=3"),
        (
            {"targets": ["to_q"]},
            "has 8 layers, but this run trains 2; use its rank and targets: 'method.targets=[to_k,",
        ),
        ({"targets": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]}, "has 8 layers, but this run trains 10"),
    ],
    ids=str,
)
def test_a_start_from_another_rank_or_other_layers_is_refused(
    job: TrainJob, lora: Path, changes: dict, words: str
) -> None:
    model = new_model(job)
    make_trainable(model, job.method.model_copy(update=changes), 0)
    with pytest.raises(UserError, match=re.escape(words)):
        load_adapter_weights(model, lora)


def test_layers_that_cannot_be_decomposed_are_named(job: TrainJob) -> None:
    method = job.method.model_copy(update={"init": "pissa", "targets": ["proj"]})
    with pytest.raises(
        UserError, match=r"method\.init=pissa decomposes linear layers, but patch_embed\.proj is not linear"
    ):
        make_trainable(new_model(job), method, 0)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_an_adapter_taken_from_the_base_begins_as_peft_begins_it(job: TrainJob, init: str) -> None:
    method = job.method.model_copy(update={"init": init})
    ours, theirs = new_model(job), new_model(job)
    make_trainable(ours, method, 0)
    theirs.add_adapter(peft_config_of(method))
    for (name, mine), (_, expected) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert torch.equal(mine, expected), name
    assert ours.peft_config["default"].init_lora_weights == init
