"""Folders of pretrained pipelines as people have them: what is wrong with one is named, with its file."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import Model
from cogvx_exp.core.errors import UserError
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_text_encoder, load_transformer, load_vae, pipeline_folder
from cogvx_exp.model.source import pretrained_folder
from tests.conftest import MakeJob
from tests.entry import train

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5678\n"
LARGE = {
    "transformer": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
HOST = Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="module")
def composed(make_job: MakeJob) -> Callable[..., Model]:
    """Models by name and settings, each composed once."""

    @cache
    def of(name: str, *settings: str) -> Model:
        task = "i2v" if name.endswith("i2v") else "t2v"
        return make_job(f"model={name}", f"task={task}", *settings).model

    return of


@pytest.fixture
def pipeline(composed: Callable[..., Model], shared_cache: Path, tmp_path: Path) -> Path:
    """A pipeline of a tiny-5b that a test may break."""
    return Path(shutil.copytree(pipeline_folder(composed("tiny-5b"), shared_cache), tmp_path / "pipeline"))


@pytest.fixture
def model(composed: Callable[..., Model], pipeline: Path) -> Callable[..., Model]:
    def of(name: str = "tiny-5b", *settings: str) -> Model:
        return composed(name, *settings).model_copy(update={"weights": "pretrained", "path": str(pipeline)})

    return of


def change_json(path: Path, **values: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in (content | values).items() if value != "absent"}))


def test_a_whole_pipeline_of_the_right_model_is_taken(model, pipeline: Path) -> None:
    assert pretrained_folder(model()) == pipeline
    # What is read from the loaded configuration may differ; and old files lack keys.
    config = pipeline / "transformer/config.json"
    change_json(config, sample_height=300, sample_width=300, spatial_interpolation_scale=1.0)
    change_json(config, patch_size_t="absent", ofs_embed_dim="absent", patch_bias="absent")
    change_json(pipeline / "vae/config.json", scaling_factor=0.5)
    assert pretrained_folder(model()) == pipeline


@pytest.mark.parametrize("file", [f"{part}/{name}" for part, name in LARGE.items()])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_text(POINTER), "is a Git LFS pointer, not the file itself; run `git lfs install`"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is cut off or not a safetensors file"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "is cut off or not a safetensors file"),
        (lambda path: path.write_text("<html>404</html>"), "is cut off or not a safetensors file"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.rename(path.with_suffix(".bin")), "has no {name}, only {stem}.bin"),
        (lambda path: (path.unlink(), path.symlink_to("/nowhere")), "is a broken link"),
    ],
    ids=["pointer", "cut", "cut in the header", "a page", "empty", "pickle", "dangling link"],
)
def test_damaged_weights_are_named(model, pipeline: Path, file: str, damage, words: str) -> None:
    path = pipeline / file
    damage(path)
    with pytest.raises(UserError) as raised:
        pretrained_folder(model())
    message = str(raised.value)
    assert words.format(name=path.name, stem=path.stem) in message
    assert str(path.parent) in message
    assert "\n" not in message


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_a_missing_part_or_a_broken_configuration_is_named(model, pipeline: Path, part: str) -> None:
    (config,) = [path for path in (pipeline / part).glob("*.json") if "config" in path.name]
    before = config.read_text()
    for content, words in (("{", "is not valid JSON"), (POINTER, "is a Git LFS pointer"), ("[]", "JSON object")):
        config.write_text(content)
        with pytest.raises(UserError, match=words) as raised:
            pretrained_folder(model())
        assert str(config) in str(raised.value)
    config.write_text(before)
    shutil.rmtree(pipeline / part)
    with pytest.raises(UserError, match=f"has no folder {part}; copy or download the whole pipeline again"):
        pretrained_folder(model())


def test_shards_and_the_tokenizer_are_looked_at(model, pipeline: Path) -> None:
    folder = pipeline / "transformer"
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    weights = load_file(folder / LARGE["transformer"])
    names = sorted(weights)
    shards = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / shard)
    index.write_text(json.dumps({"weight_map": {name: shard for shard, held in shards.items() for name in held}}))
    (folder / LARGE["transformer"]).unlink()
    assert pretrained_folder(model()) == pipeline
    (folder / "two.safetensors").unlink()
    with pytest.raises(UserError, match=r"two\.safetensors is missing"):
        pretrained_folder(model())
    index.write_text("{}")
    with pytest.raises(UserError, match="has no weight_map"):
        pretrained_folder(model())
    index.unlink()
    save_file(weights, folder / LARGE["transformer"])
    (pipeline / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"has neither spiece\.model nor tokenizer\.json"):
        pretrained_folder(model())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("tiny-2b", [], "is not a tiny-2b: in its transformer, use_rotary_positional_embeddings is True, not False"),
        ("tiny-2b", [], "; use model=tiny-5b"),
        ("tiny-1.5", [], "patch_size_t is None, not 2"),
        ("tiny-5b-i2v", [], "task=i2v needs a transformer with 8 input channels"),
        ("tiny-5b", ["model.transformer.num_layers=3"], "num_layers is 2, not 3; no model= has this architecture"),
    ],
)
def test_another_models_pipeline_is_refused(model, pipeline: Path, name: str, settings: list[str], words: str) -> None:
    if settings:  # then no model has what the folder has
        change_json(pipeline / "transformer/config.json", time_embed_dim=24)
        settings = [*settings, "model.transformer.time_embed_dim=24"]
    with pytest.raises(UserError) as raised:
        pretrained_folder(model(name, *settings))
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("vae/config.json", {"latent_channels": 8}, "the VAE in .*latent_channels is 8, not 4"),
        ("text_encoder/config.json", {"d_model": 7}, r"has width 7 \(d_model\)"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "prediction_type is epsilon"),
    ],
)
def test_other_parts_must_suit_the_model(model, pipeline: Path, file: str, values: dict, words: str) -> None:
    change_json(pipeline / file, **values)
    with pytest.raises(UserError, match=words):
        pretrained_folder(model())


@pytest.mark.parametrize("part", sorted(LARGE))
def test_weights_that_lack_in_a_whole_file_are_not_left_random(make_job, pipeline: Path, part: str) -> None:
    load = {
        "transformer": lambda: load_transformer(pipeline, HOST),
        "vae": lambda: load_vae(pipeline, HOST, make_job().memory),
        "text_encoder": lambda: load_text_encoder(pipeline, HOST),
    }[part]
    file = pipeline / part / LARGE[part]
    weights = load_file(file)
    name = next(name for name in weights if "norm" in name)
    gone = weights.pop(name)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"is missing 1 weights, such as {name}"):
        load()
    save_file({**weights, name: gone[:1].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=f"{part} cannot be loaded"):
        load()


def test_it_is_refused_before_anything_is_written(pipeline: Path, shared_cache: Path, in_tmp: Path, capsys) -> None:
    settings = ["model=tiny-2b", "model.weights=pretrained", f"model.path={pipeline}", "run_dir=run", "steps=1"]
    assert train([*settings, f"cache_dir={shared_cache}"]) == 2
    assert "is not a tiny-2b" in capsys.readouterr().err
    assert not Path("run").exists()
