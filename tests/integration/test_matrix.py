"""Every shape of model, every task, method and way of encoding: trains, validates, exports, reloads, resumes."""

import json
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.evaluation.sampling import Sampler
from cogvx_exp.model.device import choose_compute
from cogvx_exp.model.load import load_trained, load_transformer, pipeline_folder
from cogvx_exp.runs.metrics import read_metrics
from cogvx_exp.runs.run_folder import LORA_FILE, PEFT_FILE, RunFolder
from tests.conftest import extended
from tests.entry import train as main
from tests.integration.test_parity import SHAPES

SHORT = ["steps=4", "checkpoint.every=2", "lr_scheduler=constant", "validation.num_inference_steps=2", "data.workers=0"]
METHODS = ["lora", "lora_ff", "dora", "loha", "lokr", "sft"]
SAMPLE = {  # of the product of shapes, methods and ways of encoding: every shape with LoRA, every method once
    *((shape, "lora", "cache") for shape in SHAPES),
    *zip(SHAPES, ("dora", "loha", "sft", "lokr"), ("cache",) * 4, strict=False),
    ("tiny-5b-i2v", "lora", "online"),
    ("tiny-1.5", "sft", "online"),
}
PRODUCT = [
    *((shape, method, "cache") for shape in SHAPES for method in METHODS),
    *((shape, method, "online") for shape in SHAPES for method in ("lora", "sft")),
]
CASES = [case if case in SAMPLE else extended(*case) for case in PRODUCT]


def train(folder: Path, cache: Path, model: str, *overrides: str) -> RunFolder:
    settings = [f"run_dir={folder}", f"cache_dir={cache}", f"model={model}", f"task={SHAPES[model]}"]
    assert main([*settings, *SHORT, *overrides]) == 0
    return RunFolder(folder)


@pytest.mark.parametrize(("model", "method", "encode"), CASES)
def test_every_combination_trains_validates_exports_and_resumes(
    model: str, method: str, encode: str, tmp_path: Path, shared_cache: Path
) -> None:
    settings = [f"method={method}", f"data.encode={encode}", "data.holdout=1", "ema_decay=0.9"]
    run = train(tmp_path / "run", shared_cache, model, *settings)
    assert len(list(run.path.glob("validation/*/*.mp4"))) == 2
    assert read_metrics(run.held_out)[-1]["step"] == 4
    files = {"sft": "transformer/config.json", "lora": LORA_FILE, "lora_ff": LORA_FILE}
    assert (run.export / files.get(method, PEFT_FILE)).is_file()
    if encode == "cache":
        tensors = {
            name: load_file(run.checkpoint(4) / name) for name in ("trainable.safetensors", "optimizer.safetensors")
        }
        held_out = read_metrics(run.held_out)
        shutil.rmtree(run.checkpoint(4))
        train(tmp_path / "run", shared_cache, model, *settings, "resume=latest")
        for name, before in tensors.items():
            after = load_file(run.checkpoint(4) / name)
            assert after.keys() == before.keys()
            assert all(torch.equal(after[key], before[key]) for key in before), name
        assert read_metrics(run.held_out) == held_out


def test_sft_trains_only_the_parameters_asked_for(make_job, train_in, tmp_path: Path) -> None:
    job = make_job("method=sft", "method.parameters=attn1", "steps=2", "lr_scheduler=constant", "validation=none")
    trained = dict(train_in(job, tmp_path / "run").transformer.named_parameters())
    base = load_transformer(pipeline_folder(job.model, job.cache_dir), choose_compute("cpu", job.model))
    changed = {name for name, parameter in base.named_parameters() if not torch.equal(parameter, trained[name])}
    assert changed
    assert all("attn1" in name for name in changed)


def test_an_average_of_the_weights_is_exported_and_validated(make_job, train_in, tmp_path: Path) -> None:
    shared = ["steps=6", "lr_scheduler=constant", "validation=none"]
    plain = train_in(make_job(*shared), tmp_path / "plain").transformer
    train_in(make_job(*shared, "ema_decay=0.5"), tmp_path / "average")
    exports = [load_file(tmp_path / name / "export/pytorch_lora_weights.safetensors") for name in ("plain", "average")]
    assert any(not torch.equal(exports[0][name], exports[1][name]) for name in exports[0])
    live = load_file(tmp_path / "average/checkpoints/step-000006/trainable.safetensors")
    weights = dict(plain.named_parameters())
    assert all(torch.equal(live[name], weights[name]) for name in live), "training itself goes on with the live weights"


def test_learned_positions_are_dropped_off_the_native_shape_and_remembered(
    tmp_path: Path, shared_cache: Path, make_job, capsys
) -> None:
    other = ["data.height_buckets=[48]", "data.width_buckets=[48]", "validation.height=48", "validation.width=48"]
    run = train(tmp_path / "run", shared_cache, "tiny-5b-i2v", *other)
    assert "learned positions only fit its native shape" in capsys.readouterr().out
    job = make_job("model=tiny-5b-i2v", "task=i2v")
    compute = choose_compute("cpu", job.model)
    transformer = load_transformer(pipeline_folder(job.model, job.cache_dir), compute)
    load_trained(transformer, run.export / "pytorch_lora_weights.safetensors", compute)
    assert not transformer.config.use_learned_positional_embeddings
    native = train(tmp_path / "native", shared_cache, "tiny-5b-i2v")
    transformer = load_transformer(pipeline_folder(job.model, job.cache_dir), compute)
    load_trained(transformer, native.export / "pytorch_lora_weights.safetensors", compute)
    assert transformer.config.use_learned_positional_embeddings


def test_portrait_works_with_1_5(tmp_path: Path, shared_cache: Path) -> None:
    portrait = ["data.height_buckets=[64]", "data.width_buckets=[32]", "validation.height=64", "validation.width=32"]
    run = train(tmp_path / "run", shared_cache, "tiny-1.5", *portrait)
    (video,) = run.validation(4).glob("*.mp4")
    assert json.loads(video.with_suffix(".json").read_text())["height"] == 64


def test_sampling_leaves_the_model_as_it_was(make_job, train_in, tmp_path: Path) -> None:
    """Type, mode, hooks and memory: the model returns to training in the state it left."""
    import gc

    from diffusers import AutoencoderKLCogVideoX

    from cogvx_exp.data.dataset import load_dataset
    from cogvx_exp.training.run import accelerator_for
    from cogvx_exp.training.setup import build_training, prepare_data

    job = make_job("steps=2", "validation.num_inference_steps=2")
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, tmp_path / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        transformer = build_training(job, data, accelerator).transformer

    def state() -> tuple:
        gc.collect()
        modules = dict(transformer.named_modules())
        return (
            {name: (p.dtype, p.device, p.requires_grad, p.grad is None) for name, p in transformer.named_parameters()},
            {name: module.training for name, module in modules.items()},
            {name: (len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in modules.items()},
            hasattr(transformer, "_hf_hook"),
            sum(1 for thing in gc.get_objects() if isinstance(thing, AutoencoderKLCogVideoX | Sampler)),
            transformer.is_gradient_checkpointing,
        )

    before = state()
    weights = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    data.validator.run(transformer, tmp_path / "videos", 1)
    assert state() == before
    assert all(torch.equal(weights[name], parameter) for name, parameter in transformer.named_parameters())


def test_a_task_must_suit_the_checkpoint(make_job, shared_cache: Path, tmp_path: Path, capsys) -> None:
    """A t2v checkpoint under the name of an i2v model: the weights decide, not the name."""
    folder = pipeline_folder(make_job().model, shared_cache)
    settings = [f"cache_dir={shared_cache}", f"run_dir={tmp_path}/run", "model=tiny-5b-i2v", "task=i2v", "steps=1"]
    assert main([*settings, "model.weights=pretrained", f"model.path={folder}"]) == 2
    assert "needs a transformer with 8 input channels" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tmp_path: Path, shared_cache: Path, capsys
) -> None:
    settings = [f"cache_dir={shared_cache}", f"run_dir={tmp_path}/run", "steps=50", "checkpoint.every=1"]
    settings += ["validation=none", "method=sft", "optim.lr=1e30", "lr_scheduler=constant", "max_grad_norm=null"]
    assert main(settings) == 2
    error = capsys.readouterr().err
    assert "not finite" in error or "the loss is nan" in error
    if "the loss is" in error:
        assert "at step" in error
        assert "videos/00" in error
    assert RunFolder(tmp_path / "run").checkpoint(1).is_dir()


@pytest.mark.parametrize("method", ["lora", "sft"])
def test_a_frozen_base_in_bfloat16_trains_float32_weights(method: str, tmp_path: Path, shared_cache: Path) -> None:
    run = train(tmp_path / "run", shared_cache, "tiny-5b", f"method={method}", "model.dtype=bfloat16")
    trained = load_file(run.checkpoint(4) / "trainable.safetensors")
    assert {weight.dtype for weight in trained.values()} == {torch.float32}
    assert all(line["loss"] < 3 for line in read_metrics(run.metrics))
    if method == "sft":
        exported = load_file(run.export / "transformer/diffusion_pytorch_model.safetensors")
        assert {weight.dtype for weight in exported.values()} == {torch.bfloat16}


def test_validation_images_come_from_paths_and_urls(tmp_path: Path, shared_cache: Path) -> None:
    folder = tmp_path / "web"
    folder.mkdir()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(folder / "red.png")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/red.png"
        images = f"validation.images='{folder}/red.png:::{url}'"
        run = train(tmp_path / "run", shared_cache, "tiny-5b-i2v", images, "validation.prompts=[same,same]")
        server.shutdown()
    videos = [path.read_bytes() for path in sorted(run.validation(4).glob("*.mp4"))]
    assert len(videos) == 2
    assert videos[0] == videos[1]
    scores = read_metrics(run.scores)[-1]
    assert 0 < scores["first_frame"] < 60, "compared with the image"
    assert "condition" not in scores
