"""A pipeline built from an architecture has it: each fact of `conf/model` reaches the class that it is for."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXTransformer3DModel
from safetensors.torch import load_file
from transformers import T5Config

from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import Model
from cogvx_exp.core.files import read_json
from cogvx_exp.estimate.trace.fake_models import fake_text_encoder
from cogvx_exp.model import load, source
from cogvx_exp.model.build import build_pipeline, build_transformer, vae_arguments
from tests.conftest import MakeJob
from tests.replaced import replaced

# Other values than the classes' defaults, which would hide an argument that is not passed on.
TRANSFORMER = {
    **{"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "in_channels": 8, "out_channels": 4},
    **{"text_embed_dim": 16, "max_text_seq_length": 10, "time_embed_dim": 24, "ofs_embed_dim": 12},
    **{"sample_height": 6, "sample_width": 8, "sample_frames": 9, "patch_size": 1, "patch_size_t": 1},
    **{"patch_bias": False, "temporal_compression_ratio": 2, "spatial_interpolation_scale": 1.5},
    **{"temporal_interpolation_scale": 2.0, "use_rotary_positional_embeddings": True},
    **{"use_learned_positional_embeddings": True},
}
VAE = {
    **{"block_out_channels": [8, 8, 16], "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 2},
    **{"temporal_compression_ratio": 2, "scaling_factor": 0.5, "invert_scale_latents": True},
}
TEXT_ENCODER = {"d_model": 16, "d_kv": 8, "vocab_size": 200}
RANDOM_TEXT_ENCODER = {"num_layers": 3, "num_heads": 3, "d_ff": 48}
SCHEDULER = {"num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02, "snr_shift_scale": 2.0}


def settings(**parts: dict[str, Any]) -> list[str]:
    return [f"model.{part}.{name}={value}" for part, values in parts.items() for name, value in values.items()]


def defaults(kind: type) -> dict[str, Any]:
    return {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}


@pytest.fixture(scope="module")
def model(edit_job: MakeJob) -> Model:
    schedule = settings(scheduler=SCHEDULER, text_encoder=TEXT_ENCODER, random_text_encoder=RANDOM_TEXT_ENCODER)
    return edit_job(*schedule, "model.native_dtype=float16", "model.sampling.scheduler=ddim").model


def test_the_transformer_and_the_vae_have_the_architecture_of_the_settings(edit_job: MakeJob) -> None:
    model = edit_job(*settings(transformer=TRANSFORMER)).model
    assert model.transformer.model_dump() == TRANSFORMER, "all are tried"
    of_the_class = defaults(CogVideoXTransformer3DModel)
    assert [name for name, value in TRANSFORMER.items() if of_the_class[name] == value] == []
    built = build_transformer(model).config
    assert {name: built[name] for name in TRANSFORMER} == TRANSFORMER

    vae = edit_job(*settings(vae=VAE)).model.vae
    assert vae.model_dump() == VAE, "all are tried"
    of_the_class = defaults(AutoencoderKLCogVideoX)
    assert [name for name, value in VAE.items() if of_the_class[name] == value] == []
    assert vae_arguments(vae).items() >= VAE.items()


def test_the_text_encoder_and_the_schedule_have_those_of_the_settings(tmp_path: Path, model: Model) -> None:
    build_pipeline(model, tmp_path / "pipeline")
    of_t5 = T5Config()
    for name, value in (TEXT_ENCODER | RANDOM_TEXT_ENCODER).items():
        assert read_json(tmp_path / "pipeline/text_encoder/config.json")[name] == value != getattr(of_t5, name)
    schedule = read_json(tmp_path / "pipeline/scheduler/scheduler_config.json")
    assert schedule["_class_name"] == "CogVideoXDDIMScheduler"
    assert {name: schedule[name] for name in SCHEDULER} == SCHEDULER
    weights = load_file(next((tmp_path / "pipeline/transformer").glob("*.safetensors")))
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    build_pipeline(model.model_copy(update={"random_seed": 1}), tmp_path / "another")
    others = load_file(next((tmp_path / "another/transformer").glob("*.safetensors")))
    assert any(not torch.equal(others[name], weight) for name, weight in weights.items())


def test_the_text_encoder_that_is_predicted_is_the_checkpoints_own(edit_job: MakeJob) -> None:
    whole = TEXT_ENCODER | {"num_layers": 3, "num_heads": 5, "d_ff": 40}
    architecture = edit_job(*settings(text_encoder=whole)).model.text_encoder
    with torch.device("meta"):
        built = fake_text_encoder(architecture, torch.float32).config
    assert {name: getattr(built, name) for name in whole} == whole


def test_weights_come_from_where_the_settings_say(
    edit_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mocks = replaced(monkeypatch, source, "fetch", "check_pipeline")
    pretrained = edit_job("model.weights=pretrained", "model.path=me/model", "model.revision=v2").model
    assert load.pipeline_folder(pretrained, tmp_path) is mocks["fetch"].return_value
    assert mocks["fetch"].call_args.args == ("me/model", "v2")
    mocks = replaced(monkeypatch, load, "bundled_folder")
    bundled = edit_job("model.weights=bundled").model
    assert load.pipeline_folder(bundled, tmp_path) is mocks["bundled_folder"].return_value


def test_facts_of_a_checkpoint_limit_the_settings(edit_job: MakeJob) -> None:
    def refused(*settings: str) -> set[str]:
        facts = ["model.frame_step=6", "model.max_num_frames=13", "model.size_multiple=10", "data.max_num_frames=99"]
        sizes = ["data.frame_buckets=[7,13]", "data.height_buckets=[30]", "data.width_buckets=[40]"]
        job = edit_job("validation=none", *facts, *sizes, *settings)
        return {issue.setting.partition("=")[0] for issue in check_train(job)}

    assert refused() == set()
    assert refused("data.frame_buckets=[9]") == {"data.frame_buckets"}
    assert refused("data.frame_buckets=[19]") == {"data.frame_buckets"}
    assert refused("data.height_buckets=[32]") == {"data.height_buckets"}
    assert refused("model.tasks=[i2v]") == {"task"}
