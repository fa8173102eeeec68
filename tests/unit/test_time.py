"""The predicted time of a step: its inputs and its correction by measured runs."""

import json
from pathlib import Path

import pytest
import yaml
from diffusers import CogVideoXTransformer3DModel

from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.core.files import write_json
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.time import prediction as module
from cogvx_exp.estimate.time.cards import cards_for
from cogvx_exp.estimate.time.flops import Flops
from cogvx_exp.estimate.time.measured import Measured
from cogvx_exp.estimate.time.prediction import TimePrediction, predict_times
from cogvx_exp.estimate.time.seconds import rates, seconds
from cogvx_exp.estimate.time.table import in_words, show_times
from cogvx_exp.estimate.time.work import JobWork, Work, job_work, step_work
from cogvx_exp.launch.resume import has_changed
from cogvx_exp.runs.run_folder import RunFolder
from tests.conftest import MakeJob
from tests.entry import memory

SHAPE = Bucket(49, 480, 720)
FIVE_B = ("model=5b", "model.weights=random", "device=auto", "validation=none", "memory.activations=checkpoint")
TINY_SHAPE = Bucket(9, 32, 48)
SHALLOW = "model.transformer.num_layers=4"
"""A shallow model is enough: all blocks are alike."""
(H100,) = cards_for(Hardware(), "NVIDIA H100 80GB HBM3")


@pytest.fixture(scope="module")
def plain(make_job: MakeJob) -> float:
    """Seconds of a LoRA step of a shallow 5b on an H100."""
    return step_seconds(make_job)


def step_seconds(make_job: MakeJob, *settings: str) -> float:
    job = make_job(*FIVE_B, SHALLOW, *settings)
    return sum(seconds(step_work(job, SHAPE), rates(H100, job)).values())


@pytest.mark.parametrize(
    ("settings", "bounds"),
    [
        ("batch_size=2", (1.98, 2.01)),
        ("gradient_accumulation=3", (2.98, 3.01)),
        ("memory.activations=keep", (0.70, 0.80)),
        ("memory.activations=selective", (0.85, 0.93)),
        ("memory.activations=offload", (0.999, 1.03)),
        ("memory.ff_chunks=4", (1.02, 1.08)),
        ("memory.norms=float32", (1.05, 1.20)),
        ("method=lora_ff", (1.05, 1.20)),
        ("method=sft", (1.00, 1.15)),
        ("method=sft optim=cpu_offload_bf16", (1.5, 2.2)),
        ("quant=nf4", (0.97, 1.03)),
        ("model.dtype=float32", (1.7, 2.3)),
        ("model.dtype=float32 allow_tf32=false", (8, 16)),
    ],
)
def test_settings_move_the_time(make_job: MakeJob, plain: float, settings: str, bounds: tuple[float, float]) -> None:
    ratio = step_seconds(make_job, *settings.split()) / plain
    assert bounds[0] < ratio < bounds[1], ratio


def test_each_part_has_its_rate(make_job: MakeJob) -> None:
    job = make_job(*FIVE_B)
    giga, card = 1e9, H100.model_copy(update={"operator_microseconds": 10, "link": 40, "host_bandwidth": 20})
    products = Flops(linear=1e15, linear_backward=1e15, weight_gradients=1e15, adapter=1e15, linear_again=1e15)
    work = Work(products + Flops(attention=1e15, attention_again=1e15, attention_backward=2e15, scores_again=1e15))
    parts = seconds(work, rates(card, job))
    peak = 989e12
    assert parts["linear layers"] == pytest.approx(5e15 / peak / 0.7)
    assert parts["attention"] == pytest.approx(2e15 / peak / 0.42 + 3e15 / peak / 0.415)
    exact = make_job(*FIVE_B, "model.dtype=float32", "allow_tf32=false")
    assert rates(card, exact).products == pytest.approx(67e12 * 0.7)
    rest = Work(Flops(), 1e15, 100 * giga, 1e7, 200 * giga, 300 * giga, 400 * giga, 500 * giga)
    parts = seconds(rest, rates(card, job))
    computing = 1e15 / peak / 0.3 + 100 / 3350 / 0.5
    assert parts["VAE"] + parts["elementwise"] == pytest.approx(computing)
    assert parts["optimizer"] == pytest.approx(200 / 3350 / 0.5 + 300 / 20)
    assert parts["copies"] == pytest.approx(400 / 40 + 500 / 40 - computing), "copies beside computing are hidden"
    assert parts["host"] == pytest.approx(100 - computing)


def test_what_the_optimizer_and_copies_move(make_job: MakeJob) -> None:
    def of(*settings: str) -> Work:
        return step_work(make_job("validation=none", *settings), TINY_SHAPE)

    plain = of("method=sft", "max_grad_norm=null")
    values = plain.optimizer / 28
    assert values == sum(
        weight.numel() for weight in CogVideoXTransformer3DModel(**architecture(make_job)).parameters()
    )
    split = of("method=sft", "distributed=zero2", "distributed.processes=4")
    assert split.optimizer == 40 * values / 4, "clipping reads the gradients, and scales them"
    assert of("method=sft", "ema_decay=0.9", "gradient_accumulation=3").optimizer == 52 * values
    host = of("method=sft", "optim=cpu_offload")
    assert (host.optimizer, host.on_host) == (0, 40 * values)
    assert (host.exchanged, host.copied) == (4 * values, 4 * values), "gradients leave during the backward pass"
    streamed = of("memory.activations=offload", "memory.stream_blocks=true", "gradient_accumulation=2")
    inputs = 2 * (3 * 2 * 3 + make_job().model.transformer.max_text_seq_length) * 64 * 4
    blocks = sum(
        weight.nbytes
        for weight in CogVideoXTransformer3DModel(**architecture(make_job)).transformer_blocks.parameters()
    )
    assert streamed.copied == 2 * (2 * blocks + 2 * inputs), "out and in again, in each pass"


def architecture(make_job: MakeJob) -> dict:
    return make_job().model.transformer.model_dump()


def test_a_5b_on_three_cards(make_job: MakeJob) -> None:
    """At peak rates, an H100 would take 1.9 s, an A100 5.0 s and an RTX 4090 9.7 s."""
    job = make_job(*FIVE_B, "distributed=ddp", "distributed.processes=4", "hardware.price_per_hour=2")
    a100, h100, rtx4090 = predict_times(job, SHAPE, cards_for(job.hardware, None))
    assert 2.3 < h100.seconds_per_step < 3.8
    assert 2.0 < a100.seconds_per_step / h100.seconds_per_step < 2.6
    assert 3.2 < rtx4090.seconds_per_step / h100.seconds_per_step < 4.5
    assert h100.hours == pytest.approx(3000 * h100.seconds_per_step / 3600)
    assert h100.hours is not None
    assert h100.cost == pytest.approx(h100.hours * 2 * 4)
    assert "cost 21." in in_words(h100)
    (unknown,) = predict_times(make_job(*FIVE_B, "epochs=2", SHALLOW), SHAPE, [H100])
    assert unknown.hours is unknown.cost is None


def test_the_vae_in_the_loop_and_validations_take_time(make_job: MakeJob) -> None:
    def of(*settings: str) -> JobWork:
        return job_work(make_job(*settings), TINY_SHAPE)

    plain, online = of("validation=none"), of("validation=none", "data.encode=online", "batch_size=2")
    image = of("validation=none", "model=tiny-5b-i2v", "task=i2v")
    assert plain.step.convolutions == 0
    assert plain.video is None
    assert online.step.convolutions > 8 * image.step.convolutions > 0, "two clips of nine frames; one frame"
    twice = of("validation.num_prompts=1", "validation.num_videos=2", "validation.guidance_scale=1")
    often = of("validation.prompts=a:::b:::c", "validation.every=100", "validation.baseline=false")
    assert (twice.videos, often.videos) == (2 * 2, 3 * 3), "before and after training; after 100, 200 and 300 steps"
    assert twice.video is not None
    assert often.video is not None
    assert often.video.flops.total == 2 * twice.video.flops.total, "with and without guidance"
    assert often.video.convolutions == twice.video.convolutions > 0


def run_on(device: str, job: TrainJob, folder: Path, seconds_per_step: float) -> None:
    """The folder of a finished run whose last five steps had clips of half the height."""
    run, text = RunFolder(folder), job.model.transformer.max_text_seq_length
    run.start(job, [])
    write_json(folder / "environment.json", {"device": device})
    write_json(folder / "summary.json", {"seconds_per_step": 1.0})
    steps = [(3 * 2 * 3 + text, seconds_per_step)] * 7 + [(3 * 1 * 3 + text, seconds_per_step / 4)] * 5
    lines = [
        {"step": step, "step_seconds": time, "clips_per_second": 1 / time, "tokens_per_second": tokens / time}
        for step, (tokens, time) in enumerate(steps, 1)
    ]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_runs_on_the_card_correct_the_prediction(make_job: MakeJob, in_tmp: Path) -> None:
    settings = ("validation=none", "data.height_buckets=[16,32]", "data.width_buckets=[48]", "data.frame_buckets=[9]")
    job, cards = make_job(*settings), cards_for(Hardware(), None)
    (_, before, _) = predict_times(job, TINY_SHAPE, cards)
    assert (before.factor, before.measured) == (1, [])
    run_on("NVIDIA H100 80GB HBM3", job, Path("outputs/one"), 1.5 * before.seconds_per_step)
    a100, corrected, _ = predict_times(job, TINY_SHAPE, cards)
    assert corrected.seconds_per_step == pytest.approx(1.5 * before.seconds_per_step)
    assert [run.run for run in corrected.measured] == ["outputs/one"]
    assert a100.factor == 1, "another card"
    run_on("NVIDIA H100 80GB HBM3", job, Path("outputs/multirun/x/0"), 1.7 * before.seconds_per_step)
    Path("outputs/broken").mkdir()
    Path("outputs/broken/summary.json").write_text("{")
    (other,) = predict_times(make_job(*settings, "batch_size=2"), TINY_SHAPE, cards[1:2])
    assert other.factor == pytest.approx(1.6), "the median, with other settings, too"
    (deeper,) = predict_times(make_job(*settings, "model.transformer.num_layers=3"), TINY_SHAPE, cards[1:2])
    assert deeper.factor == 1, "another model"


def test_a_cpu_is_predicted_from_its_runs_only(
    make_job: MakeJob, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("validation=none")

    def on_cpu(*settings: str, threads: int = 2) -> list[TimePrediction]:
        monkeypatch.setattr(module, "device_label", lambda device: f"CPU, {threads} threads")
        return predict_times(make_job("validation=none", *settings), TINY_SHAPE, [])

    assert on_cpu() == []
    run_on("CPU, 2 threads", job, Path("outputs/one"), 0.5)
    assert on_cpu()[0].seconds_per_step == pytest.approx(0.5)
    assert on_cpu("batch_size=4")[0].seconds_per_step == pytest.approx(2.0, rel=0.01)
    assert on_cpu(threads=8) == []


def test_a_card_that_is_not_there_is_refused_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert memory(["hardware=gtx1080"]) == 2
    message = capsys.readouterr().err
    for name in ("a100", "auto", "h100", "l40s", "rtx4090"):
        assert name in message
    assert memory(["hardware=h100", "hardware.bandwidth=null"]) == 2
    assert "hardware.bandwidth=null  is needed with hardware=h100" in capsys.readouterr().err


def test_what_was_measured_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"linear layers": 1.0, "attention": 2.0, "host": 0.0}
    runs = [Measured("outputs/one", 6.0, 3.0), Measured("outputs/two", 3.0, 3.0)]
    show_times([TimePrediction("h100", parts, 0.5, steps=1200, price_per_hour=2.0, measured=runs)], [H100])
    out = capsys.readouterr().out
    assert "h100 1.50 3.00 0.75 4.50 1.5 3.00" in " ".join(out.split()), (
        "corrected: parts, recomputed, step, hours, cost"
    )
    assert "h100, assumed: 989 TFLOP/s, of which products reach 70%, attention 42% forward and 42% backward;" in out
    assert "Measured here: 6.00 s per step in outputs/one, predicted 3.00\n" in out
    assert "corrected by a factor of 1.50" in out
    assert "host" not in out
    show_times([], [])
    assert "this GPU is not in conf/hardware; hardware=NAME predicts" in " ".join(capsys.readouterr().out.split())


def test_a_card_changes_no_run(make_job: MakeJob, tmp_path: Path) -> None:
    """Runs can be resumed with any card, including runs made before the setting existed."""
    run = RunFolder(tmp_path)
    run.start(make_job(), [])
    assert not has_changed(make_job("hardware=h100", "hardware.price_per_hour=2"), tmp_path)
    assert has_changed(make_job("batch_size=7"), tmp_path)
    config = yaml.safe_load(run.config.read_text())
    del config["hardware"]
    run.config.write_text(yaml.safe_dump(config))
    assert not has_changed(make_job("hardware=h100"), tmp_path)
