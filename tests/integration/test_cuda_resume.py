"""Resume on the software CUDA device: of every kind of state, to the bit, and with the losses of the CPU."""

import json
from pathlib import Path

import pytest

from tests.integration.test_cuda_matrix import tolerance
from tests.software_cuda.runs import Case, Outcome, cache_in, run_selected

BASE = ["steps=4", "checkpoint.every=2", "lr_scheduler=constant", "data.workers=0", "memory.preflight=false"]
BASE += ["data.decode_workers=1"]
pytestmark = pytest.mark.cuda_matrix
OPTIMIZERS = "adam adafactor adamw8bit ao_adamw ao_adamw4bit ao_adamw8bit ao_adamw_fp8 came cpu_offload cpu_offload8bit"
OPTIMIZERS += " muon paged_adamw paged_adamw8bit prodigy schedule_free"
RELEASED = "optim.release_gradients=true max_grad_norm=null"
CASES = (
    {f"optim {name}": f"optim={name} method=sft validation=none" for name in OPTIMIZERS.split()}
    | {f"method {name}": f"method={name} validation=none" for name in ("lora", "dora", "loha", "lokr")}
    | {f"memory {name}": f"memory={name} validation=none" for name in ("24gb", "16gb", "12gb")}
    | {
        "streamed, online": "memory=12gb data.encode=online data.random_flip=0.5 validation=none",
        "float16, average, 8 bit": "model=tiny-2b model.dtype=float16 ema_decay=0.9 optim=adamw8bit method=sft "
        "gradient_accumulation=2 validation=none",
        "bfloat16": "model.dtype=bfloat16 method=sft ema_decay=0.9 gradient_accumulation=2 validation=none",
        "float16 muon": "model.dtype=float16 optim=muon ema_decay=0.9 validation=none",
        "float16, quantized": "model.dtype=float16 quant=nf4 memory=24gb validation=none",
        "offloaded, gradients kept": "optim=cpu_offload optim.offload_gradients=false method=sft "
        "gradient_accumulation=2 validation=none",
        "offloaded bfloat16": "optim=cpu_offload_bf16 model.dtype=bfloat16 method=sft memory=24gb validation=none",
        "offloaded LoRA": "optim=cpu_offload validation=none",
        "released": f"{RELEASED} method=sft validation=none",
        "rounded": "optim=ao_adamw8bit optim.stochastic_rounding=true model.dtype=bfloat16 method=sft validation=none",
        "online i2v": "model=tiny-1.5-i2v task=i2v data.encode=online validation=none",
        "workers": "data.workers=2 validation=none",
        "videos and held-out loss": "ema_decay=0.9 data.holdout=2 validation.loss_every=1 validation.every=1 "
        "validation.num_inference_steps=1",
    }
)
"""In `make test-cuda`."""
FILES = ("trainable.safetensors", "optimizer.safetensors", "state.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("resume")


@pytest.fixture(scope="module")
def outcomes(request: pytest.FixtureRequest, folder: Path) -> dict[str, list[Outcome]]:
    """A whole run on the device, one that goes on from its second step, and a whole one on the CPU."""

    def cases(name: str) -> list[Case]:
        settings, place = [f"cache_dir={cache_in(folder)}", *BASE, *CASES[name].split()], folder / number(name)
        on_cpu = [text.replace("model.dtype=float16", "model.dtype=float32") for text in settings]
        resume = f"resume={place}/whole/checkpoints/step-000002"
        return [
            Case([*settings, "device=cuda", f"run_dir={place}/whole"], park=1),
            Case([*settings, "device=cuda", resume, f"run_dir={place}/resumed"], park=1),
            Case([*on_cpu, "device=cpu", f"run_dir={place}/cpu"]),
        ]

    return run_selected(request, cases)


def number(name: str) -> str:
    return str(list(CASES).index(name))


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(
    name: str, outcomes: dict[str, list[Outcome]], folder: Path
) -> None:
    whole, resumed, cpu = outcomes[name]
    for outcome in (whole, resumed, cpu):
        assert outcome.code == 0, outcome.text[-6000:]
        assert outcome.races == []
    assert whole.losses == pytest.approx(cpu.losses, rel=tolerance(CASES[name]))
    assert [line["step"] for line in resumed.metrics] == [3, 4], "it went on"
    for key in ("loss", "grad_norm", "lr"):
        assert [line[key] for line in resumed.metrics] == [line[key] for line in whole.metrics[2:]], key
    own = folder / number(name)
    if "dtype=float16" in CASES[name]:
        assert json.loads((own / "whole/checkpoints/step-000004/state.json").read_text())["scaler"]["scale"] > 0
    for file in FILES:
        one, other = (own / run / "checkpoints/step-000004" / file for run in ("whole", "resumed"))
        assert one.read_bytes() == other.read_bytes(), file
