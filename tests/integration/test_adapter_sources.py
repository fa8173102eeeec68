"""Everything a run leaves that holds trained weights can be sampled from: export, checkpoint, any number of them."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.evaluation.adapter import find_adapter
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_trained, load_transformer, pipeline_folder
from cogvx_exp.runs.run_folder import LORA_FILE
from tests.entry import generate, train
from tests.pipeline_inputs import some_inputs

FAST = ["generate.num_inference_steps=2", "generate.prompts='a red circle'"]
SHORT = ["steps=2", "lr_scheduler=constant", "validation=none", "data.workers=0"]


def output(job: TrainJob, *files: Path) -> torch.Tensor:
    compute = choose_compute("cpu", job.model)
    model = load_transformer(pipeline_folder(job.model, job.cache_dir), compute)
    for file in files:
        model = load_trained(model, file, compute)
    with torch.no_grad():
        return model.eval()(**some_inputs(model.config), return_dict=False)[0]


@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr", "sft"])
def test_a_checkpoint_is_as_good_as_the_export(method: str, make_job, train_in, tmp_path: Path, capsys) -> None:
    extra = [] if method == "sft" else ["method.rank=4", "method.alpha=12"]
    job = make_job(f"method={method}", *SHORT, *extra)
    transformer = train_in(job, tmp_path / "run").transformer.eval()
    with torch.no_grad():
        trained = transformer(**some_inputs(transformer.config), return_dict=False)[0]
    capsys.readouterr()
    checkpoint = tmp_path / "run/checkpoints/step-000002"
    found = [find_adapter(path) for path in (tmp_path / "run", checkpoint, checkpoint / "trainable.safetensors")]
    assert {adapter.base.name for adapter in found if adapter.base} == {"tiny-5b"}
    assert found[1].file == found[2].file == checkpoint / "trainable.safetensors"
    for adapter in found[:2]:
        torch.testing.assert_close(output(job, adapter.file), trained, rtol=1e-5, atol=1e-5)
    assert (output(job) - trained).abs().max() > 1e-3
    printed = capsys.readouterr().out
    if method != "sft":
        assert printed.count("changes 8 of 8 layers") == 2
        assert "rank 4, alpha 12" in printed
    (checkpoint / "optimizer.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError, match=r"optimizer\.safetensors is damaged"):
        find_adapter(checkpoint)


def test_generate_takes_a_foreign_lora_whole_or_not_at_all(in_tmp: Path, shared_cache: Path, capsys) -> None:
    """From the command line, as somebody does who has downloaded a file."""

    shared = ["model=tiny-5b", f"cache_dir={shared_cache}", *FAST]

    def sample(name: str, *overrides: str) -> bytes:
        assert generate([*shared, *overrides, f"generate.output_dir={name}"]) == 0
        (video,) = Path(name).glob("*.mp4")
        return video.read_bytes()

    assert train([f"cache_dir={shared_cache}", "run_dir=run", *SHORT, "method.rank=4", "method.alpha=16"]) == 0
    weights = load_file(f"run/export/{LORA_FILE}")
    comfy = {key.replace("transformer.", "diffusion_model.", 1): weight for key, weight in weights.items()}
    Path("loras").mkdir()
    Path("config.yaml").write_text("model: somebody else's\n")
    save_file(comfy, "loras/comfy.safetensors")
    capsys.readouterr()
    base, foreign = sample("base"), sample("foreign", "generate.adapter=loras/comfy.safetensors")
    assert "loras/comfy.safetensors changes 8 of 8 layers (LoRA, rank 4, alpha 4 as its rank" in capsys.readouterr().out
    assert foreign != base
    assert foreign == sample("own", f"generate.adapter=run/export/{LORA_FILE}") == sample("run", "generate.adapter=run")
    both = "generate.adapter=[run,loras/comfy.safetensors]"
    assert sample("both", both, "generate.weights=[0.5,0.5]") == foreign
    out = capsys.readouterr().out
    assert len(re.findall(r"changes 8 of 8 layers", out)) == 4

    save_file({key: weight * ("lora_A" in key) for key, weight in comfy.items()}, "loras/zero.safetensors")
    save_file({f"video_{key}": weight for key, weight in comfy.items()}, "loras/odd.safetensors")
    for name, words in {
        "zero": "changes none of its 8 layers",
        "odd": "16 of its keys match none of its layers",
    }.items():
        assert generate([*shared, f"generate.adapter=loras/{name}.safetensors"]) == 2
        assert words in capsys.readouterr().err


def test_a_run_that_learned_nothing_still_ends_and_says_so(in_tmp: Path, shared_cache: Path, capsys) -> None:
    settings = ["steps=1", "optim.lr=0", "data.workers=0", "validation.num_inference_steps=1", "export.merge=true"]
    assert train([f"cache_dir={shared_cache}", "run_dir=run", *settings, "validation.baseline=false"]) == 0
    assert "changes 0 of 8 layers" in capsys.readouterr().out
    assert "_name_or_path" not in json.loads(Path("run/export/transformer/config.json").read_text())
    assert generate([f"cache_dir={shared_cache}", *FAST, "generate.adapter=run"]) == 2
    assert "changes none of its 8 layers" in capsys.readouterr().err


def test_another_models_transformer_is_refused(make_job, tmp_path: Path) -> None:
    whole = pipeline_folder(make_job("model=tiny-1.5").model, make_job().cache_dir) / "transformer"
    with pytest.raises(UserError, match=r"is a transformer of another model: patch_size_t is 2, not None"):
        output(make_job(), whole)
