"""LoRA files as the trainers and tools write them: all of a file is applied, or it is refused by name."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.model.load import load_trained
from tests.adapters import (
    ALPHA,
    HOST,
    LAYERS,
    RANK,
    Tensors,
    exported_lora,
    kohya,
    new_model,
    output,
    raw_tensors,
    renamed,
    trained_model,
)
from tests.conftest import MakeJob


@pytest.fixture(scope="module")
def job(make_job: MakeJob) -> TrainJob:
    return make_job(f"method.rank={RANK}", f"method.alpha={ALPHA:g}")


@pytest.fixture(scope="module")
def raw(job: TrainJob, tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    return raw_tensors(exported_lora(job, tmp_path_factory.mktemp("export")))


@pytest.fixture(scope="module")
def wanted(job: TrainJob) -> torch.Tensor:
    return output(trained_model(job)[0])


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
        "16 of its keys match none of its layers (diffusion_model.double_blocks.0.attn1.to_k.lora_A.weight",
    ),
    "a deeper model's": (
        lambda raw: renamed(raw, "{layer}.lora_{half}.weight", ("blocks.1", "blocks.7")),
        "8 of its keys match none of its layers",
    ),
    "a wider model's": (
        lambda raw: {key: torch.cat([weight] * 2, int("B" not in key)) for key, weight in raw.items()},
        "maps 128 to 128 channels in the file, but 64 to 64 in the model",
    ),
    "the text encoder, too": (
        lambda raw: one_more(raw, "lora_te_text_model_q.lora_down.weight", 4, 8),
        "1 of its keys match none of its layers (lora_te_text_model_q.lora_down.weight)",
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
    "whole weights": (
        lambda raw: {"patch_embed.proj.weight": torch.ones(3)},
        "has no LoRA keys, only patch_embed.proj",
    ),
    "half of a layer": (lambda raw: without(raw, "to_q.lora_B"), "has only one of lora_A and lora_B"),
    "nothing": (lambda raw: {}, "has no LoRA keys"),
    "nan": (lambda raw: {key: weight / 0 for key, weight in raw.items()}, "has non-finite values"),
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
    assert "is a pickle, which can run arbitrary code" in why("lora.pt")
    assert "has 2 files; choose one" in why("")
    (tmp_path / "one").mkdir()
    save_file(raw, tmp_path / "one/some.safetensors")
    assert find_adapter(tmp_path / "one").file == tmp_path / "one/some.safetensors"
    whole = tmp_path / "whole/transformer"
    whole.mkdir(parents=True)
    (whole / "config.json").write_text("{}")
    assert "has no diffusion_pytorch_model.safetensors" in why("whole")
