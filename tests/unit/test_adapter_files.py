"""LoRA files as the trainers and tools write them: all of a file is applied, or it is refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import Method, TrainJob
from cogvx_exp.errors import UserError
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.model.adapt import make_trainable, trainable_parameters
from cogvx_exp.model.build import build_transformer
from cogvx_exp.model.device import Compute
from cogvx_exp.model.load import load_adapter_weights, load_trained
from cogvx_exp.model.positions import rotary_positions
from cogvx_exp.training.export import export
from tests.conftest import MakeJob

HOST = Compute(torch.device("cpu"), torch.float32)
Tensors = dict[str, torch.Tensor]
LAYERS = 8
"""Of the tiny-5b: to_q, to_k, to_v and to_out.0 of two blocks."""
RANK, ALPHA = 4, 12.0


@pytest.fixture(scope="module")
def job(make_job: MakeJob) -> TrainJob:
    return make_job(f"method.rank={RANK}", f"method.alpha={ALPHA:g}")


def new_model(job: TrainJob) -> CogVideoXTransformer3DModel:
    torch.manual_seed(0)
    return build_transformer(job.model).requires_grad_(False).eval()


def output(transformer: CogVideoXTransformer3DModel) -> torch.Tensor:
    config, generator = transformer.config, torch.Generator().manual_seed(1)
    with torch.no_grad():
        return transformer(
            torch.randn(1, 3, config.in_channels, 4, 6, generator=generator),
            torch.randn(1, 8, config.text_embed_dim, generator=generator),
            torch.tensor([500]),
            image_rotary_emb=rotary_positions(dict(config), (3, 4, 6), torch.device("cpu")),
            return_dict=False,
        )[0]


def trained_model(job: TrainJob, **changes: object) -> tuple[CogVideoXTransformer3DModel, Method]:
    """A model whose adapter has weights as after training."""
    method = Method.model_validate({**job.method.model_dump(), **changes})
    model = new_model(job)
    make_trainable(model, method, 0)
    generator = torch.Generator().manual_seed(2)
    for parameter in trainable_parameters(model).values():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval(), method


@pytest.fixture(scope="module")
def lora(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a LoRA of rank 4 and alpha 12."""
    model, method = trained_model(job)
    return export(model, method, tmp_path_factory.mktemp("export"), torch.float32, {})


@pytest.fixture(scope="module")
def raw(lora: Path) -> Tensors:
    """The trained tensors with no scale in them: lora_B is a third of the exported one. Keys: LAYER.lora_A.weight."""
    weights = {name.removeprefix("transformer."): weight for name, weight in load_file(lora).items()}
    return {name: weight / (ALPHA / RANK) if "lora_B" in name else weight for name, weight in weights.items()}


@pytest.fixture(scope="module")
def wanted(job: TrainJob) -> torch.Tensor:
    return output(trained_model(job)[0])


def renamed(raw: Tensors, pattern: str, *pairs: tuple[str, str]) -> Tensors:
    """The tensors with the layer's name and the ending put into a pattern, after replacements."""
    found = {}
    for key, weight in raw.items():
        layer, half = re.fullmatch(r"(.+)\.lora_([AB])\.weight", key).groups()
        for old, new in pairs:
            layer = layer.replace(old, new)
        found[pattern.format(layer=layer, half=half, way={"A": "down", "B": "up"}[half])] = weight
    return found


def kohya(raw: Tensors) -> Tensors:
    named = renamed(raw, "lora_unet_{layer}.lora_{way}.weight", (".", "_"))
    alphas = {key.replace(".lora_down.weight", ".alpha"): torch.tensor(ALPHA) for key in named if "down" in key}
    return named | alphas


def sat(raw: Tensors) -> Tensors:
    found = {}
    for key, weight in raw.items():
        block, name, half = re.fullmatch(
            r"transformer_blocks\.(\d)\.attn1\.(\w+)(?:\.0)?\.lora_(.)\.weight", key
        ).groups()
        number = "qkv".find(name[-1])
        layer = "dense" if name == "to_out" else "query_key_value"
        prefix = f"model.diffusion_model.transformer.layers.{block}.attention.{layer}"
        found[f"{prefix}.matrix_{half}.{max(number, 0) if layer != 'dense' else 0}"] = weight
    return found


def old_diffusers(raw: Tensors) -> Tensors:
    return renamed(
        raw, "transformer.{layer}_lora.{way}.weight", (".attn1.", ".attn1.processor."), ("to_out.0", "to_out")
    )


FORMATS: dict[str, Callable[[Tensors], Tensors]] = {
    "diffusers": lambda raw: renamed(raw, "transformer.{layer}.lora_{half}.weight"),
    "comfyui": lambda raw: renamed(raw, "diffusion_model.{layer}.lora_{half}.weight"),
    "comfyui, kohya's ends": lambda raw: renamed(raw, "model.diffusion_model.{layer}.lora_{way}.weight"),
    "peft": lambda raw: renamed(raw, "base_model.model.{layer}.lora_{half}.weight"),
    "peft in diffusers": lambda raw: renamed(raw, "base_model.model.transformer.{layer}.lora_{half}.default.weight"),
    "unprefixed": lambda raw: raw,
    "adapter's name": lambda raw: renamed(raw, "{layer}.lora_{half}.default.weight"),
    "no weight": lambda raw: renamed(raw, "{layer}.lora_{half}"),
    "lora.down": lambda raw: renamed(raw, "unet.{layer}.lora.{way}.weight"),
    "lora_linear_layer": lambda raw: renamed(raw, "transformer.{layer}.lora_linear_layer.{way}.weight"),
    "processor": old_diffusers,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_naming_of_keys_is_applied_with_its_alpha(
    name: str, raw: Tensors, job: TrainJob, wanted: torch.Tensor, tmp_path: Path, capsys
) -> None:
    named = FORMATS[name](raw)
    assert len(named) == len(raw)
    alphas = {re.sub(r"[._]lora[._].*", ".alpha", key): torch.tensor(ALPHA) for key in named}
    save_file({**named, **alphas}, tmp_path / "lora.safetensors")
    model = load_trained(new_model(job), tmp_path / "lora.safetensors", HOST)
    torch.testing.assert_close(output(model), wanted, rtol=1e-5, atol=1e-5)
    assert (
        f"changes {LAYERS} of {LAYERS} layers (LoRA, rank 4, alpha 12 from its .alpha keys)" in capsys.readouterr().out
    )


def test_kohya_and_sat_files(raw: Tensors, job: TrainJob, wanted: torch.Tensor, tmp_path: Path, capsys) -> None:
    save_file(kohya(raw), tmp_path / "kohya.safetensors")
    model = load_trained(new_model(job), tmp_path / "kohya.safetensors", HOST)
    torch.testing.assert_close(output(model), wanted, rtol=1e-5, atol=1e-5)
    strong = {key: weight * ALPHA if "matrix_B" in key else weight for key, weight in sat(raw).items()}  # alpha is 1
    save_file(strong, tmp_path / "sat.safetensors")
    model = load_trained(new_model(job), tmp_path / "sat.safetensors", HOST)
    torch.testing.assert_close(output(model), wanted, rtol=1e-5, atol=1e-5)
    assert "alpha 1 as SAT's default" in capsys.readouterr().out


def test_alpha_is_found_wherever_it_is_kept(raw: Tensors, job: TrainJob, wanted: torch.Tensor, tmp_path: Path) -> None:
    def loaded(file: Path) -> torch.Tensor:
        return output(load_trained(new_model(job), file, HOST))

    config = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA}
    root = {"transformer.r": RANK, "transformer.lora_alpha": ALPHA / RANK**0.5, "transformer.use_rslora": True}
    for name, metadata in {
        "diffusers": {"lora_adapter_metadata": json.dumps(config)},
        "rslora": {"lora_adapter_metadata": json.dumps(root)},
        "kohya": {"ss_network_alpha": "12.0", "ss_network_dim": "4"},
    }.items():
        save_file(FORMATS["diffusers"](raw), tmp_path / f"{name}.safetensors", metadata=metadata)
        torch.testing.assert_close(loaded(tmp_path / f"{name}.safetensors"), wanted, rtol=1e-5, atol=1e-5)
    peft = tmp_path / "peft"
    peft.mkdir()
    save_file(FORMATS["comfyui"](raw), peft / "adapter_model.safetensors")
    (peft / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA}))
    torch.testing.assert_close(loaded(find_adapter(peft).file), wanted, rtol=1e-5, atol=1e-5)
    save_file(raw, tmp_path / "none.safetensors")
    plain, _ = trained_model(job, alpha=RANK)
    torch.testing.assert_close(loaded(tmp_path / "none.safetensors"), output(plain), rtol=1e-5, atol=1e-5)
    (peft / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "lora_alpha": ALPHA}))
    with pytest.raises(UserError, match=r"has rank 4, but 8 from adapter_config\.json"):
        loaded(peft / "adapter_model.safetensors")


def test_ranks_alphas_and_types_of_each_layer_count(raw: Tensors, job: TrainJob, tmp_path: Path, capsys) -> None:
    """Against the weights changed by hand."""
    uneven, byhand = {}, new_model(job)
    names = sorted({key.partition(".lora_")[0] for key in raw})
    for number, name in enumerate(names):
        rank, alpha = 1 + number % 4, 2.0 + number
        down, up = raw[f"{name}.lora_A.weight"][:rank].half(), raw[f"{name}.lora_B.weight"][:, :rank].bfloat16()
        uneven |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up.contiguous()}
        uneven[f"{name}.alpha"] = torch.tensor(alpha)
        byhand.get_submodule(name).weight.data += alpha / rank * up.float() @ down.float()
    save_file(uneven, tmp_path / "lora.safetensors")
    model = load_trained(new_model(job), tmp_path / "lora.safetensors", HOST)
    torch.testing.assert_close(output(model), output(byhand), rtol=1e-4, atol=1e-5)
    assert "rank 1 to 4, alpha 2 to 9" in capsys.readouterr().out


def without(raw: Tensors, part: str) -> Tensors:
    return {key: weight for key, weight in raw.items() if part not in key}


def one_more(raw: Tensors, key: str, *shape: int) -> Tensors:
    return {**raw, key: torch.ones(shape)}


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "another model's layers": (
        lambda raw: renamed(raw, "diffusion_model.{layer}.lora_{half}.weight", ("transformer_blocks", "double_blocks")),
        "16 of its keys belong to no layer of it (diffusion_model.double_blocks.0.attn1.to_k.lora_A.weight",
    ),
    "a deeper model's": (
        lambda raw: renamed(raw, "{layer}.lora_{half}.weight", ("blocks.1", "blocks.7")),
        "8 of its keys belong to no layer",
    ),
    "a wider model's": (
        lambda raw: {key: torch.cat([weight] * 2, int("B" not in key)) for key, weight in raw.items()},
        "goes from 128 to 128 channels in the file and from 64 to 64 in the model",
    ),
    "the text encoder, too": (
        lambda raw: one_more(raw, "lora_te_text_model_q.lora_down.weight", 4, 8),
        "1 of its keys belong to no layer of it (lora_te_text_model_q.lora_down.weight)",
    ),
    "an unknown part": (
        lambda raw: one_more(raw, "transformer_blocks.0.attn1.to_q.lora_mid.weight", 1),
        "1 of its keys",
    ),
    "LoHa": (
        lambda raw: {key.replace("lora_A.weight", "hada_w1_a"): value for key, value in without(raw, "lora_B").items()},
        "8 keys are of LoHa, such as transformer_blocks.0.attn1.to_k.hada_w1_a",
    ),
    "kohya's DoRA": (
        lambda raw: one_more(kohya(raw), "lora_unet_transformer_blocks_0_attn1_to_q.dora_scale", 64, 1),
        "1 keys are of kohya's DoRA",
    ),
    "whole weights": (lambda raw: {"patch_embed.proj.weight": torch.ones(3)}, "has no LoRA keys but patch_embed.proj"),
    "half of a layer": (lambda raw: without(raw, "to_q.lora_B"), "has only one of lora_A and lora_B"),
    "nothing": (lambda raw: {}, "has no LoRA keys"),
    "nan": (lambda raw: {key: weight / 0 for key, weight in raw.items()}, "has values that are not finite"),
    "zeros": (
        lambda raw: {key: weight * ("lora_A" in key) for key, weight in raw.items()},
        "changes none of its 8 layers",
    ),
    "no alpha": (
        lambda raw: {key: weight * ("alpha" not in key) for key, weight in kohya(raw).items()},
        "changes none of its 8 layers",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_applied_whole_is_refused_by_name(
    name: str, raw: Tensors, job: TrainJob, tmp_path: Path
) -> None:
    make, words = REFUSED[name]
    file = tmp_path / "lora.safetensors"
    save_file({key: weight.contiguous() for key, weight in make(raw).items()}, file)
    with pytest.raises(UserError) as raised:
        load_trained(new_model(job), file, HOST, must_change=True)
    message = str(raised.value)
    assert words in message
    assert str(file) in message
    assert "\n" not in message


def test_an_adapter_that_changes_some_layers_says_how_many(raw: Tensors, job: TrainJob, tmp_path: Path, capsys) -> None:
    half = {key: weight * ("blocks.0" in key or "lora_A" in key) for key, weight in raw.items()}
    save_file(half, tmp_path / "lora.safetensors")
    load_trained(new_model(job), tmp_path / "lora.safetensors", HOST, must_change=True)
    assert "changes 4 of 8 layers" in capsys.readouterr().out


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
        ({"rank": 8}, "has rank 4 and method.rank=8; use its rank and its targets: method.rank=4"),
        ({"rank": 3}, "has rank 4 and method.rank=3"),
        (
            {"targets": ["to_q"]},
            "has 8 layers and this run trains 2; use its rank and its targets: 'method.targets=[to_k,",
        ),
        ({"targets": ["to_q", "to_k", "to_v", "to_out.0", "ff.net.2"]}, "has 8 layers and this run trains 10"),
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


def test_files_that_hold_no_adapter_are_refused_before_a_model_is_loaded(raw: Tensors, tmp_path: Path) -> None:
    def why(name: str) -> str:
        with pytest.raises(UserError) as raised:
            find_adapter(tmp_path / name)
        return str(raised.value)

    assert "does not exist" in why("nowhere")
    save_file(raw, tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-9])
    assert "is cut off" in why("cut.safetensors")
    (tmp_path / "pointer.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "is a Git LFS pointer" in why("pointer.safetensors")
    torch.save(raw, tmp_path / "lora.pt")
    assert "is a pickle, which can run any code" in why("lora.pt")
    assert "has 2 files; name one of them" in why("")
    (tmp_path / "one").mkdir()
    save_file(raw, tmp_path / "one/some.safetensors")
    assert find_adapter(tmp_path / "one").file == tmp_path / "one/some.safetensors"
    whole = tmp_path / "whole/transformer"
    whole.mkdir(parents=True)
    (whole / "config.json").write_text("{}")
    assert "has no diffusion_pytorch_model.safetensors" in why("whole")
