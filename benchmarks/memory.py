"""Writes docs/memory.md: predicted memory of this project's settings and of the CogVideoX Factory's tables.

`python -m benchmarks.memory` takes about ten minutes on 2 cores. The measured columns are filled from the results of
`python -m benchmarks.gpu`.
"""

from collections.abc import Iterator
from pathlib import Path

from cogvx_exp.console.quiet import quiet_libraries

quiet_libraries()

from hydra import compose, initialize_config_dir

from benchmarks.gpu.docs import with_measured_cells
from benchmarks.gpu.results import FOLDER, Results
from benchmarks.step import ratios
from benchmarks.targets import LORA, LORA_TABLE, MATRIX, PRESETS, SFT_TABLE, TARGETS, same_settings
from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.rules.jobs import check_memory
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.core.units import GIB
from cogvx_exp.estimate.prediction import RESERVE_GIB, Prediction, predict
from cogvx_exp.estimate.trace.encoders import text_encoder_peak, vae_weights
from cogvx_exp.model.device import resolve_dtype

PAGE = Path(__file__).resolve().parents[1] / "docs" / "memory.md"

INTRODUCTION = """\
# Memory

Written by `python -m benchmarks.memory`. All figures are GiB of the device's memory, predicted by `python -m cogvx_exp.memory`
for clips of the model's native size: 49 frames of 480x720, or 81 frames of 768x1360 for 1.5. A card needs about {reserve} GiB
more for CUDA itself, and with several processes 0.5 GiB for nccl. `python -m benchmarks.gpu --docs` fills in the measured
cells; an empty cell has not been measured.

**Method.** The real model is built on the meta device, the adapter is added, the memory options are applied to the blocks,
and two training steps and a denoising step are run with fake tensors. Every storage is counted for its lifetime, in units of
512 bytes like torch's CUDA allocator. Differences between CUDA and the CPU are modelled: autocast's float32 layer norms, the
float32 accumulator in FlashAttention's backward pass. The size of optimizer states comes from each optimizer's file in
`conf/optim`; a test compares it with the real states.

**Host memory.** The column *host* is the host memory of one process: streamed blocks, offloaded activations, an offloaded
optimizer's states and its copies of weights and gradients, and, with `validation.offload`, copies of the weights, which are made
when videos are first decoded and then kept. Everything but the states is pinned. Since torch 2.13, pinned tensors above 1 MiB are
not rounded up; older versions round each to a power of two, and the prediction follows the installed version. A run that needs
more host memory than the machine or its cgroup has is refused before it starts.

**Accuracy.** Tests compare the peak of each phase with the bytes counted by a software CUDA device in runs of small models
(`tests/integration/test_cuda_memory.py`; for several processes `test_cuda_split_memory.py`; [docs/gpu.md](gpu.md)), and a step's
peak with torch's CPU allocator (`tests/unit/test_estimate.py`). They must agree within 10 %; most differ by less than 1 %, loading by
up to 8 % (fp8: temporary copies; streamed blocks: 0.2 of 2.5 MiB), encoding by 5 %, the final videos with streamed blocks by 2 %.
The last section compares predictions with the tables of the reference (CogVideoX Factory). Not predicted: allocator fragmentation,
cuDNN workspaces, and temporary copies in the steps of prodigy, came, schedule_free and muon.
"""


def job_of(settings: str) -> TrainJob:
    """A checked job."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        job = typed(compose("train", settings.split()), TrainJob)
    issues = check_memory(job)
    assert not issues, issues
    return job


def predicted(settings: str) -> Prediction:
    """The prediction for settings."""
    print("  " + settings, flush=True)
    return predict(job_of(settings))


def training_peaks(prediction: Prediction) -> tuple[float, float]:
    """Peak of training without and with validation, not counting encoding."""
    return prediction.phases["before_validation"], prediction.phases["after_validation"]


def table(header: list[str], rows: Iterator[list[str]] | list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def shown(values: tuple[float, ...]) -> list[str]:
    """Figures with two decimals; what did not fit is `OOM`."""
    return ["OOM" if value != value else f"{value:.2f}" for value in values]


def targets() -> Iterator[list[str]]:
    """Rows of the first table."""
    for settings, reference, wanted in TARGETS:
        peaks = training_peaks(predicted(settings))
        row = [f"`{settings}`"]
        for number in range(2):
            row += [f"{reference[number]:.1f}", f"{wanted[number]}", f"**{peaks[number]:.2f}**", ""]
        yield row


def plain_rows(choices: list[str]) -> Iterator[list[str]]:
    """Rows of settings with all phases."""
    for settings in choices:
        prediction = predicted(settings)
        phases = [f"{value:.2f}" for value in prediction.phases.values()]
        yield [f"`{' '.join(settings.split())}`", *phases, f"{prediction.host:.1f}", "", ""]


def comparison(method: str, rows: dict, optim: str, batch_size: int) -> Iterator[list[str]]:
    """Rows of the reference's figures and the predictions for its settings and for ours."""
    for key, reference in rows.items():
        model, rank, activations = (*key, "", "checkpoint")[:3] if len(key) == 1 else key
        same, shared = same_settings(method, optim, batch_size, key)
        theirs, ours = predicted(same), predicted(f"{shared} memory=24gb")
        job = job_of(same)
        dtype = resolve_dtype(job.model, "cuda")
        others = (text_encoder_peak(job.model.text_encoder, dtype, (1, 1)) + vae_weights(job.model.vae, dtype)) / GIB
        everything = theirs.phases["before_training"] + others
        figures = (everything, max(everything, theirs.phases["before_validation"]))
        label = f"{model}, rank {rank}, {activations}" if rank else model
        yield [label, *shown(reference[:3]), *shown(figures), *shown(training_peaks(ours))]


def write() -> None:
    """Predicts everything and writes the page."""
    phases = ["encoding", "before training", "before validation", "after validation", "after testing"]
    parts = [INTRODUCTION.format(reserve=f"{RESERVE_GIB:.1f}"), "## Targets\n"]
    parts.append(
        "Peaks of training without and with validation: the reference's, the target, predicted and measured.\n"
        "Captions are encoded first (9.5 GiB with T5 in 16 bits), when nothing else is on the device.\n"
    )
    both = ["reference", "target", "predicted", "measured"]
    header = ["settings", *(f"{what}: {name}" for what in ("without", "with") for name in both)]
    parts.append(table(header, targets()))
    real = ["host", "measured without", "measured with"]
    parts += ["## Every model, on a 24 GB card\n", table(["settings", *phases, *real], plain_rows(MATRIX))]
    parts += ["## Presets\n", PRESET_NOTES, table(["settings", *phases, *real], plain_rows(PRESETS))]
    keep = predicted(f"model=5b {LORA} memory.activations=keep validation=none").peak
    times = [[f"`{name}`", f"{ratio:.2f}"] for name, ratio in ratios().items()]
    parts += [TIME_NOTES.format(keep=keep), table(["blocks", "time"], times)]
    parts += ["## The reference's tables\n", COMPARISON_NOTES]
    header = ["", "ref. before training", "ref. before validation", "ref. after validation"]
    header += ["same settings: all models", "same settings: training", "ours: training", "ours: with validation"]
    for method, tables in (("lora", LORA_TABLE), ("sft", SFT_TABLE)):
        for (optim, batch_size), rows in tables.items():
            parts.append(f"### {method}, {optim.removeprefix('optim=')}, batch size {batch_size}\n")
            parts.append(table(header, comparison(method, rows, optim, batch_size)))
    PAGE.write_text(with_measured_cells("\n".join(parts), Results(FOLDER).by_key()), encoding="utf-8")


PRESET_NOTES = """\
| preset | sets | cost relative to `default` |
| --- | --- | --- |
| `default` | each block's input is kept, the rest is recomputed | |
| `fast` | attention's output is kept as well; no VAE tiling | faster: attention is not recomputed |
| `24gb` | block inputs are offloaded to pinned host memory | copies, overlapped with computation |
| `16gb` | and feed-forward layers in four chunks | feed-forward layers are recomputed once more |
| `12gb` | and frozen weights are streamed from the host, two blocks on the GPU at a time | copies, hidden if a block's computation takes longer |
"""

TIME_NOTES = """\
Time of a training step relative to `memory.activations=keep` (for which the 5b would need {keep:.0f} GiB), on 2 CPU cores with
a small CogVideoX (`python benchmarks/step.py`). On a CPU, attention is a small part of the step and copies to the host do not
cross a bus, so `selective`, `offload` and `stream_blocks` only show their overhead.
"""

COMPARISON_NOTES = """\
The reference's figures (an A100 with 80 GB) are running maxima. Its *before training* is T5, the VAE and the transformer
together; T5 is released before the first step, so *before validation* is the maximum of that and of the training step; *after
validation* T5 is on the device again. The columns *same settings* predict the first two under these conditions: float32 layer
norms, with T5 (8.9 GiB) and the VAE loaded. The remaining differences:

- LoRA, batch size 4, 5b: theirs is up to 18 % higher. The prediction is allocated, not reserved memory.
- Full fine-tuning with AdamW: theirs is 6.3 GiB higher for 2b, the size of one more float32 copy of the weights. torch's
  AdamW makes such temporary copies unless it is fused, as it is here.
- Full fine-tuning with CPU offload: theirs is 9 to 13 GiB higher for 5b. Autocast keeps 16-bit copies of all float32 weights
  (10.4 GiB) until the end of a pass; here its cache is off.
- 5b, 8-bit AdamW, batch size 4: their 16.396 before training is the figure of the 2b.

*Ours* is the same training with `memory=24gb`; T5 and the transformer are never loaded together, since the embeddings are
cached. DeepSpeed's rows are omitted.
"""

if __name__ == "__main__":
    write()
    print(f"Wrote {PAGE}")
