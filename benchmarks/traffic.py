"""Bytes that one block reads and writes in a training step.

    python -m benchmarks.traffic [SETTINGS] [--operators] [--stock]

Traces a block of the real model with fake tensors, forward and backward, for the model's native clips. Each input and
each output tensor of an operation counts once. Loads nothing and needs no GPU; takes about ten seconds. SETTINGS are
overrides as for train, added to those of each row, such as memory.norms=float32. --operators lists the elementwise
operations by bytes. --stock counts with diffusers' attention processor and peft's casts of adapter inputs, which this
project avoids.

All operations except products and attention are elementwise; their time on a GPU depends on bytes.
"""

import sys
from collections.abc import Sequence

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_memory
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.estimate.time.work import flop_count, shape_of
from cogvx_exp.estimate.trace import fake_models
from cogvx_exp.estimate.trace.traffic import PassTraffic, Traffic, block_traffic
from cogvx_exp.model import adapt

ROWS = (
    "model=2b",
    "model=2b method=sft",
    "model=5b",
    "model=5b method=sft",
    "model=5b-i2v task=i2v",
    "model=1.5-5b",
    "model=1.5-5b method=sft",
)
CHECKPOINTED = "memory.activations=checkpoint"
GB = 1e9
MOST_OPERATORS = 12


def job_of(settings: Sequence[str]) -> TrainJob:
    """A checked job."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", list(settings)), TrainJob)
    issues = check_memory(job)
    assert not issues, issues
    return job


def native(job: TrainJob) -> Bucket:
    """The shape of the model's native clips."""
    return Bucket(job.model.native.num_frames, job.model.native.height, job.model.native.width)


def per_value(job: TrainJob, traffic: PassTraffic) -> float:
    """Elementwise bytes of a block per value of its hidden states, forward and backward."""
    shape, architecture = shape_of(job, native(job), job.batch_size), job.model.transformer
    width = architecture.num_attention_heads * architecture.attention_head_dim
    values = shape.clips * flop_count(job, native(job)).tokens(shape) * width
    return (traffic.forward.bytes["elementwise"] + traffic.backward.bytes["elementwise"]) / values


def table(rows: Sequence[str], more: Sequence[str]) -> str:
    """All rows in Markdown."""
    parts = ["elementwise", "products", "attention", "operations"]
    header = ["settings", *(f"{way}: {part}" for way in ("forward", "backward") for part in parts)]
    lines = [[*header, "all elementwise", "bytes per value"], ["---"] * (len(header) + 2)]
    for row in rows:
        job = job_of([*row.split(), CHECKPOINTED, *more])
        traffic = block_traffic(job, native(job))
        cells = [f"`{row}`", *_cells(traffic.forward), *_cells(traffic.backward)]
        blocks = job.model.transformer.num_layers
        both = traffic.forward.bytes["elementwise"] + traffic.backward.bytes["elementwise"]
        lines.append([*cells, f"{blocks * both / GB:,.0f}", f"{per_value(job, traffic):.0f}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cells(traffic: Traffic) -> list[str]:
    sizes = [f"{traffic.bytes[kind] / GB:.2f}" for kind in ("elementwise", "products", "attention")]
    return [*sizes, str(traffic.operators.total())]


def operators(row: str, more: Sequence[str]) -> str:
    """Bytes of a block's elementwise operations, largest first, in Markdown."""
    job = job_of([*row.split(), CHECKPOINTED, *more])
    traffic = block_traffic(job, native(job))
    both = traffic.forward.plus(traffic.backward, 1).by_operator
    lines = [f"| operation in `{row}` | forward | backward |", "| --- | --- | --- |"]
    for name, _ in both.most_common(MOST_OPERATORS):
        moved = [way.by_operator[name] / GB for way in (traffic.forward, traffic.backward)]
        lines.append(f"| `{name}` | {moved[0]:.2f} | {moved[1]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables."""
    more = [text for text in sys.argv[1:] if text not in ("--operators", "--stock")]
    if "--stock" in sys.argv:
        fake_models.set_attention = adapt._skip_input_casts = lambda *arguments: None
    print("GB read and written by one block for one native clip; backward includes recomputation\n")
    print(table(ROWS, more))
    for row in ROWS if "--operators" in sys.argv else ():
        print("\n" + operators(row, more))


if __name__ == "__main__":
    main()
