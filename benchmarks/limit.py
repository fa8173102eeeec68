"""Prints the tables of docs/speed.md: operations of a step by part, seconds on cards: `python -m benchmarks.limit`.

For the models' native clips, batch size 1, blocks recomputed. Loads nothing and needs no GPU.
"""

from collections.abc import Sequence

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

from benchmarks.traffic import CHECKPOINTED, ROWS, job_of, native
from cogvx_exp.config.schema import Hardware, TrainJob
from cogvx_exp.estimate.time.cards import cards_for
from cogvx_exp.estimate.time.seconds import rates, seconds
from cogvx_exp.estimate.time.work import Work, step_work

PARTS = {
    "linear": "linear, forward",
    "linear_backward": "their inputs' gradients",
    "weight_gradients": "their weights' gradients",
    "adapter": "adapter",
    "attention": "attention, forward",
    "attention_backward": "attention, backward",
    "scores_again": "scores again",
    "linear_again": "linear again",
    "attention_again": "attention again",
}
BASE = "model=5b"
SWITCHES = (
    "memory.activations=keep",
    "memory.activations=selective",
    "memory.activations=offload",
    "memory.ff_chunks=4",
    "memory.activations=offload memory.stream_blocks=true",
    "memory.norms=float32",
    "quant=nf4",
    "quant=int8",
    "quant=fp8",
    "batch_size=4",
    "method=lora_ff",
    "method=sft",
    "method=sft optim=cpu_offload_bf16",
    "model.dtype=float32",
    "model.dtype=float32 allow_tf32=false",
    "data.encode=online",
)
PETA, TERA = 1e15, 1e12


def operations(works: dict[str, Work]) -> str:
    """PFLOP by part, in Markdown."""
    lines = [["settings", *PARTS.values(), "all"]]
    for settings, work in works.items():
        counts = [getattr(work.flops, name) for name in PARTS]
        lines.append([f"`{settings}`", *map(_peta, counts), f"**{_peta(work.flops.total)}**"])
    return _markdown(lines)


def switches(card: Hardware) -> str:
    """The effect of settings on the predicted LoRA step of the 5b, in Markdown."""

    def predicted(settings: str) -> float:
        job = job_of([BASE, CHECKPOINTED, *settings.split()])
        return sum(seconds(step_work(job, native(job)), rates(card, job)).values()) / job.batch_size

    default = predicted("")
    return _markdown([["settings", "time"], *([f"`{text}`", f"{predicted(text) / default:.2f}"] for text in SWITCHES)])


def limits(jobs: dict[str, TrainJob], works: dict[str, Work]) -> str:
    """Seconds at data-sheet peaks and as predicted, in Markdown."""
    cards = cards_for(Hardware(), None)
    names = [card.name for card in cards]
    lines = [
        ["settings", "PFLOP", "TB", *(f"{name}: limit" for name in names), *(f"{name}: predicted" for name in names)]
    ]
    for settings, work in works.items():
        at_peak = [sum(seconds(work, rates(_perfect(card), jobs[settings])).values()) for card in cards]
        predicted = [sum(seconds(work, rates(card, jobs[settings])).values()) for card in cards]
        moved = f"{(work.elementwise + work.optimizer) / TERA:.2f}"
        cells = [_peta(work.flops.total), moved, *(f"{value:.2f}" for value in (*at_peak, *predicted))]
        lines.append([f"`{settings}`", *cells])
    return _markdown(lines)


def _perfect(card: Hardware) -> Hardware:
    """A card that reaches the peaks of its data sheet."""
    shares = [name for name in Hardware.model_fields if name.endswith("_efficiency")]
    return card.model_copy(update=dict.fromkeys(shares, 1.0))


def _peta(value: float) -> str:
    return f"{value / PETA:.3f}" if value else ""


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    table = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def main() -> None:
    """Prints the tables."""
    jobs = {settings: job_of([*settings.split(), CHECKPOINTED]) for settings in ROWS}
    works = {settings: step_work(job, native(job)) for settings, job in jobs.items()}
    print("PFLOP of a training step with one native clip, all blocks recomputed\n")
    print(operations(works))
    print("\nSeconds of such a step\n")
    print(limits(jobs, works))
    print(f"\nStep time of `{BASE}` on an H100 per clip, relative to {CHECKPOINTED}\n")
    print(switches(cards_for(Hardware(), None)[1]))


if __name__ == "__main__":
    main()
