"""Settings on the software CUDA device against the same settings on the CPU: losses equal to rounding, and no races.

Activations are parked from one value on, and accesses of streams without an order end a run with an error.
"""

import json
from pathlib import Path

import pytest

from tests.software_cuda.runs import Case, Outcome, cache_in, run_all, run_selected

BASE = ["steps=3", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false", "data.decode_workers=1"]
CORE = {
    "plain": "validation=none",
    "validation": "validation.every=2 validation.num_inference_steps=1 data.holdout=2 validation.loss_every=2",
    "bfloat16": "model.dtype=bfloat16 method=sft ema_decay=0.9 gradient_accumulation=2 validation=none",
    "12gb": "memory=12gb model.dtype=bfloat16 gradient_accumulation=2 validation=none",
    "offloaded optimizer": "memory=24gb optim=cpu_offload method=sft validation=none",
}
"""In `make test`."""

MODELS = {"tiny-2b": "t2v", "tiny-5b": "t2v", "tiny-5b-i2v": "i2v", "tiny-1.5": "t2v", "tiny-1.5-i2v": "i2v"}
OPTIMIZERS = "adam adafactor adamw8bit ao_adamw ao_adamw4bit ao_adamw8bit ao_adamw_fp8 came cpu_offload cpu_offload8bit"
OPTIMIZERS += " muon paged_adamw8bit prodigy schedule_free"
SCALED = [name for name in OPTIMIZERS.split() if not name.startswith("cpu_offload")]
VALIDATION = "validation.every=2 validation.num_inference_steps=1 validation.baseline=false"
RELEASED = "optim.release_gradients=true max_grad_norm=null"
WHOLE = (
    {f"model {name}": f"model={name} task={task} {VALIDATION}" for name, task in MODELS.items()}
    | {f"float16 {name}": f"model={name} task={task} model.dtype=float16 {VALIDATION}" for name, task in MODELS.items()}
    | {f"method {name}": f"method={name} {VALIDATION}" for name in ("lora", "lora_ff", "dora", "loha", "lokr", "sft")}
    | {f"optim {name}": f"optim={name} validation=none" for name in OPTIMIZERS.split()}
    | {f"optim {name} sft": f"optim={name} method=sft validation=none" for name in ("adafactor", "muon", "adamw8bit")}
    | {f"float16 {name}": f"optim={name} model.dtype=float16 validation=none" for name in SCALED}
    | {f"memory {name}": f"memory={name} {VALIDATION}" for name in ("default", "fast", "24gb", "16gb", "12gb")}
    | {f"memory {name} float16": f"memory={name} model.dtype=float16 {VALIDATION}" for name in ("fast", "24gb", "12gb")}
    | {f"{name}": f"memory.activations={name}" for name in ("keep", "checkpoint", "selective", "offload")}
    | {f"{name} float16": f"quant={name} model.dtype=float16 {VALIDATION}" for name in ("nf4", "int8", "fp8")}
    | {f"{name} in 8 bits": f"quant={name} quant.compute=8bit model.dtype=bfloat16" for name in ("int8", "fp8")}
    | {f"{name} keep": f"quant={name} memory.activations=keep validation=none" for name in ("nf4", "int8", "fp8")}
    | {
        "profiled": "profile=true profile.skip=0 profile.record=1 memory=24gb validation=none",
        "workers and pinned memory": "data.workers=2 data.pin_memory=true validation=none",
        "i2v": "model=tiny-1.5-i2v task=i2v validation=none data.encode=online",
        "float16": "model=tiny-2b model.dtype=float16 validation=none",
        "without clipping": "max_grad_norm=null validation=none",
        "online": "data.encode=online validation=none",
        "offloaded optimizer, gradients kept": "optim=cpu_offload optim.offload_gradients=false "
        "gradient_accumulation=2 validation=none",
        "nf4": "quant=nf4 model.dtype=bfloat16 validation=none",
        "streamed, two passes a step": "memory=12gb gradient_accumulation=2 model.dtype=float16 data.holdout=2 "
        "validation.loss_every=1 validation.every=1 validation.num_inference_steps=1",
        "streamed with checkpoints": f"memory.stream_blocks=true memory.activations=checkpoint {VALIDATION}",
        "feed-forward in chunks": "memory.ff_chunks=4 validation=none",
        "norms in float32": "memory.norms=float32 model.dtype=bfloat16 validation=none",
        "offloaded bfloat16": "method=sft optim=cpu_offload_bf16 memory=24gb model.dtype=bfloat16",
        "offloaded 8 bit, average": f"method=sft optim=cpu_offload8bit model.dtype=bfloat16 ema_decay=0.9 {VALIDATION}",
        "offloaded, online i2v": "model=tiny-5b-i2v task=i2v optim=cpu_offload data.encode=online data.workers=1 "
        "data.pin_memory=true",
        "released": f"{RELEASED} method=sft validation=none",
        "released, rounded": f"optim=ao_adamw8bit optim.stochastic_rounding=true {RELEASED} model.dtype=bfloat16 "
        "method=sft validation=none",
        "average": "ema_decay=0.9 validation=none",
        "all at once": "model.dtype=float16 gradient_accumulation=2 ema_decay=0.9 data.holdout=2 optim=adamw8bit "
        "validation.loss_every=2 validation.every=2",
        "no offload": f"validation.offload=false {VALIDATION}",
        "pissa": "method.init=pissa validation=none",
    }
)
"""In `make test-cuda`."""

CASES = CORE | WHOLE

ONCE = {"copy to the host": 1}
WAITS = {
    "plain": ONCE,
    "bfloat16": ONCE,
    "12gb": ONCE,
    "workers and pinned memory": ONCE,
    "float16": ONCE,
    "average": ONCE,
    "without clipping": ONCE,
    "float16 muon": ONCE | {"aten::_local_scalar_dense": 1},
    "released": ONCE,
    "online": {"copy to the host": 2},
}
"""How often the host waits for the device in a step: for the loss, the gradients' norm and the samples' losses
together. Optimizers that are not fused look whether float16's gradients are finite; clips that are encoded in the loop
are drawn from on the host, those of the next step before the current one, and none in the last step."""


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    """On the device and on the CPU."""
    folder, numbers = tmp_path_factory.mktemp("cuda"), {name: str(number) for number, name in enumerate(CASES)}
    return run_selected(request, lambda name: both(CASES[name], folder / numbers[name], cache_in(folder)))


def both(settings: str, folder: Path, cache: Path) -> list[Case]:
    """The case on the device, and on the CPU, which has no float16 and reads what the device has encoded."""
    on_cpu = settings.replace("model.dtype=float16", "model.dtype=float32")
    own = [f"cache_dir={cache}", *BASE]
    return [
        Case([*own, *settings.split(), "device=cuda", f"run_dir={folder}-cuda"], park=1),
        Case([*own, *on_cpu.split(), "device=cpu", f"run_dir={folder}-cpu"]),
    ]


def tolerance(settings: str) -> float:
    """Relative. A GPU's autocast leaves other operations in float32 than that of a CPU."""
    if "float16" not in settings:
        return 1e-4
    return 5e-3 if "bfloat16" in settings else 2e-2


@pytest.mark.parametrize("name", [*CORE, *(pytest.param(name, marks=pytest.mark.cuda_matrix) for name in WHOLE)])
def test_losses_are_those_of_the_cpu(name: str, outcomes: dict[str, list[Outcome]]) -> None:
    cuda, cpu = outcomes[name]
    assert cpu.code == 0, cpu.text
    assert cuda.code == 0, cuda.text[-6000:]
    assert cuda.races == []
    assert len(cuda.losses) == 3
    assert cuda.losses == pytest.approx(cpu.losses, rel=tolerance(CASES[name]))
    assert cuda.usage["peak"] > 50_000, "it ran on the device"
    if name in WAITS:
        assert cuda.synchronizations == [WAITS[name], ONCE if name == "online" else WAITS[name]]


@pytest.mark.cuda_matrix
def test_a_gpu_that_is_too_small_is_reported_before_and_in_a_run(tmp_path: Path) -> None:
    """The check before a run refuses it; without the check, it ends with what was there and what helps."""
    shared = ["steps=2", "lr_scheduler=constant", "data.workers=0", "device=cuda", "validation=none", "method=sft"]
    shared += [f"cache_dir={tmp_path}/cache", "model.transformer.num_layers=4", "memory.activations=keep"]
    large = ["model.transformer.num_attention_heads=12", "model.transformer.attention_head_dim=64", "batch_size=4"]
    refused, ended = run_all(
        [
            Case([*shared, *large, f"run_dir={tmp_path}/a"], total_mib=300),
            Case([*shared, *large, f"run_dir={tmp_path}/b", "memory.preflight=false"], total_mib=300),
        ]
    )
    assert refused.code == 2, refused.text
    assert "exceeds the 0.3 GiB of this Software CUDA" in refused.text
    assert not (tmp_path / "a").exists()
    assert ended.code == 2, ended.text
    for words in (
        "CUDA out of memory",
        "The predicted peak was",
        "The GPU has 0.3 GiB",
        "memory=24gb",
        "optim=adamw8bit",
    ):
        assert words in ended.text
    assert "Traceback" not in ended.text


@pytest.mark.cuda_matrix
def test_full_fine_tuning_ends_with_one_transformer_on_the_gpu(tmp_path: Path) -> None:
    """The last videos are sampled from what was exported, which needs neither the trained model nor its base."""
    wide = ["model.transformer.num_attention_heads=12", "model.transformer.attention_head_dim=64"]
    shared = [*BASE, *wide, "steps=1", "device=cuda", "method=sft", "validation.num_inference_steps=1"]
    shared += ["model.transformer.num_layers=2", "validation.baseline=false", "checkpoint.background=false"]
    (outcome,) = run_all([Case([*shared, f"cache_dir={tmp_path}/cache", f"run_dir={tmp_path}/run"])])
    assert outcome.code == 0, outcome.text[-3000:]
    file = tmp_path / "run/export/transformer/diffusion_pytorch_model.safetensors"
    peak = json.loads((tmp_path / "run/summary.json").read_text())["memory"]["after_testing"]["peak_gib"]
    assert peak * 2**30 < 1.5 * file.stat().st_size
