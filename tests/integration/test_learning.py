"""Training learns what the captions say, and does the same every time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cogvx_exp.config.schema import TrainJob
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.distributed.process_group import ProcessGroup
from cogvx_exp.evaluation.held_out import HeldOutLoss
from cogvx_exp.loading.sampler import SampleIndex
from cogvx_exp.loading.samples import TrainingSamples
from cogvx_exp.model.device import choose_compute
from cogvx_exp.runs.metrics import Metrics, read_metrics
from cogvx_exp.training.loop import LoopConfig, train_loop
from cogvx_exp.training.run import accelerator_for
from cogvx_exp.training.setup import PreparedData, Training, build_training, prepare_data
from tests.conftest import extended

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-t2v-lora.json"
TIMESTEPS = (950, 975, 999)
"""So noisy that only the caption tells which clip it was."""
CLIPS = 4
OVERFIT = (
    f"data.clips={CLIPS}",
    "data.caption_dropout=0",
    "validation=none",
    "method.targets=[to_q,to_k,to_v,to_out.0,ff.net.0.proj,ff.net.2,norm1.linear,norm2.linear,proj_out]",
    "batch_size=4",
    "method.rank=32",
    "steps=400",
)


def fixed_loss(training: Training, repeat: int = 0) -> float:
    """Mean loss over all clips with their captions, at fixed timesteps and with fixed noise."""
    losses = []
    with torch.no_grad():
        for clip in range(CLIPS):
            for number, timestep in enumerate(TIMESTEPS):
                sample = training.samples[SampleIndex(10_000_000 + 100 * repeat + 10 * clip + number, clip)]
                batch = replace(sample, timesteps=torch.tensor([timestep]))
                losses.append(training.loss(training.transformer, batch).item())
    return sum(losses) / len(losses)


def schedule_of(job: TrainJob, training: Training) -> LoopConfig:
    return LoopConfig(0, training.steps, 1, job.max_grad_norm, job.seed, ProcessGroup(), lambda: False, callbacks=[])


def train_and_measure(job: TrainJob, folder: Path, shuffle_captions: bool = False) -> tuple[float, float, float]:
    """The fixed loss before and after training, and its spread over other fixed noise."""
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, folder / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        training = build_training(job, data, accelerator)
        before = fixed_loss(training)
        batches = training.batches(job, data)
        if shuffle_captions:
            batches = map(shuffled(data), batches)
        schedule = schedule_of(job, training)
        folder.mkdir(parents=True, exist_ok=True)
        with Metrics(folder / "metrics.jsonl", 0) as metrics:
            train_loop(training.state, batches, training.loss, metrics, schedule)
        repeats = torch.tensor([fixed_loss(training, repeat) for repeat in range(1, 9)])
        return before, fixed_loss(training), repeats.std().item()


def shuffled(data: PreparedData):
    """Gives every clip the caption of a clip drawn at random."""
    generator = torch.Generator().manual_seed(0)
    embeds = torch.stack([data.context.cache.load(keys[0]) for keys in data.encoded.training.captions])

    def shuffle(batch):
        others = torch.randint(CLIPS, (len(batch.samples),), generator=generator)
        return replace(batch, prompt_embeds=embeds[others])

    return shuffle


def learned(before: float, after: float, spread: float) -> bool:
    print(f"fixed loss {before:.3f} -> {after:.3f}, spread {spread:.3f}")
    return before - after > 20 * spread and after < 0.3 * before


@pytest.mark.extended
def test_overfitting_four_clips_lowers_the_loss_beyond_doubt(make_job, tmp_path: Path) -> None:
    assert learned(*train_and_measure(make_job(*OVERFIT), tmp_path))


@pytest.mark.extended
def test_the_measure_would_notice_a_run_that_learns_nothing(make_job, tmp_path: Path) -> None:
    assert not learned(*train_and_measure(make_job(*OVERFIT, "optim.lr=0", "steps=20"), tmp_path / "no-rate"))
    assert not learned(*train_and_measure(make_job(*OVERFIT), tmp_path / "shuffled", shuffle_captions=True))


@pytest.mark.parametrize(
    ("model", "task", "method"),
    [
        ("tiny-5b", "t2v", "sft"),
        extended("tiny-5b-i2v", "i2v", "lora"),
        extended("tiny-5b-i2v", "i2v", "sft"),
        extended("tiny-1.5", "t2v", "lora"),
    ],
)
def test_every_task_and_method_learns(make_job, tmp_path: Path, model: str, task: str, method: str) -> None:
    """Over-fits four clips; measured on them as the held-out loss is."""
    settings = [*OVERFIT[:3], f"model={model}", f"task={task}", f"method={method}", "batch_size=4", "steps=80"]
    job = make_job(*settings, *OVERFIT[3:5] if method == "lora" else [])
    compute = choose_compute("cpu", job.model)
    data = prepare_data(job, load_dataset(job.data, job.cache_dir), compute, tmp_path / "faults.csv", ProcessGroup())
    with accelerator_for(compute) as accelerator:
        training = build_training(job, data, accelerator)

        def measure(seed: int) -> float:
            task = data.context.task.without_dropout()
            samples = TrainingSamples(data.encoded.training, training.samples.space, job.data, task, seed)
            held_out = HeldOutLoss(samples, data.encoded.training, data.context, [500, 800, 950], training.loss)
            return held_out.measure(training.transformer)["loss"]

        before = measure(0)
        schedule = schedule_of(job, training)
        with Metrics(tmp_path / "metrics.jsonl", 0) as metrics:
            train_loop(training.state, training.batches(job, data), training.loss, metrics, schedule)
        after, spread = measure(0), torch.tensor([measure(seed) for seed in range(1, 6)]).std().item()
    print(f"{model} {task} {method}: {before:.3f} -> {after:.3f}, spread {spread:.3f}")
    assert before - after > 20 * spread
    assert after < 0.75 * before


def losses(make_job, train_in, folder: Path, *overrides: str) -> list[float]:
    job = make_job("steps=20", "lr_scheduler.warmup_steps=2", "validation=none", *overrides)
    train_in(job, folder)
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]


def test_golden_losses(make_job, train_in, tmp_path: Path) -> None:
    """The first 20 losses of the main job. After an intended change of the numbers:
    `python -m tests.golden.update`."""
    golden = json.loads(GOLDEN.read_text())
    found = losses(make_job, train_in, tmp_path / "a")
    assert found == pytest.approx(golden, rel=1e-3)
    other_seed = losses(make_job, train_in, tmp_path / "b", "seed=43")
    assert other_seed != pytest.approx(golden, rel=0.1), "the tolerance would not notice another seed"


def test_the_same_seed_gives_the_same_losses(make_job, train_in, tmp_path: Path) -> None:
    dropout = "method.dropout=0.3"
    first = losses(make_job, train_in, tmp_path / "a", dropout)
    assert losses(make_job, train_in, tmp_path / "b", dropout, "data.workers=2") == first


def test_a_step_is_the_same_however_it_is_cut_into_batches(make_job, train_in, tmp_path: Path) -> None:
    whole = losses(make_job, train_in, tmp_path / "a", "batch_size=4")
    pieces = losses(make_job, train_in, tmp_path / "b", "batch_size=1", "gradient_accumulation=4")
    assert pieces == pytest.approx(whole, rel=1e-4)
