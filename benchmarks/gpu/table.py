"""What is measured. A new row is a new line of settings; what is measured already is not measured again."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.targets import ADAMW, ADAMW8, LORA, MATRIX, OFFLOAD, PRESETS, RELEASE, TARGETS, same_settings

TESTS = "tests"
"""The piece that runs tests/integration/test_gpu*.py instead of measuring."""

BLOCKS = "blocks"
"""The piece that times a few blocks of a model (blocks.py)."""

WARM_UP, TIMED = 3, 5
"""Steps that do not count, and those whose median does."""

BF16 = "memory=24gb model.dtype=bfloat16"
SPEED = {
    # Settings of pieces that are about time; their validations are not sampled.
    "speed-2b": [f"model=2b {LORA} memory={preset}" for preset in ("default", "fast", "24gb", "16gb", "12gb")]
    + [f"model=2b {LORA} memory=default quant={name}" for name in ("int8", "fp8", "nf4")]
    + [f"model=2b method=sft {BF16} optim={name}" for name in ("adamw", "adamw8bit", "ao_adamw8bit")],
    "speed-5b": [f"model=5b {LORA} memory=default quant={name}" for name in ("int8", "fp8", "nf4")]
    + [f"model=5b method={method} memory=default" for method in ("dora method.rank=64", "lora method.rank=128")],
    "speed-5b-sft": [f"model=5b method=sft {BF16} optim=adamw8bit"]
    + [f"model=5b method=sft {BF16} optim={name} {RELEASE}" for name in ("ao_adamw", "ao_adamw8bit")],
    "attention": [
        f"model=5b {LORA} memory=default attention={name}"
        for name in ("flash", "cudnn", "efficient", "flash3_hub", "sage_hub")
    ],
    "compiled": [f"model=5b {LORA} {more} compile=blocks" for more in ("memory=default", "memory=fast", "memory=12gb")]
    + [f"model=5b {LORA} memory=default compile=blocks {more}" for more in ("attention=flex", "attention=sage_hub")]
    + [f"model=5b {LORA} memory=default compile=blocks quant={name} quant.compute=8bit" for name in ("fp8", "int8")],
    "compiled-others": [f"model={name} {LORA} memory=default compile=blocks" for name in ("2b", "1.5-5b")]
    + [f"model=5b method=sft {BF16} optim=adamw8bit compile=blocks"],
    "speed-1.5": [f"model=1.5-5b {LORA} memory={preset}" for preset in ("default", "fast", "16gb", "12gb")],
    "speed-1.5-more": [f"model=1.5-5b {LORA} memory=default quant={name}" for name in ("fp8", "nf4")]
    + [f"model=1.5-5b method=sft {BF16} optim=ao_adamw8bit {RELEASE}"],
}
REFERENCE = [
    # The reference's settings, and its own script with the same ones where it is given.
    same_settings("lora", ADAMW, 1, ("2b", 64, "checkpoint"))[0],
    same_settings("lora", ADAMW, 1, ("5b", 64, "checkpoint"))[0],
    same_settings("lora", ADAMW, 4, ("5b", 64, "checkpoint"))[0],
    same_settings("sft", ADAMW, 1, ("2b",))[0],
    same_settings("sft", ADAMW8, 1, ("5b",))[0],
    same_settings("sft", OFFLOAD, 1, ("2b",))[0],
]

MINUTES = {"2b": 1.0, "5b": 1.8, "5b-i2v": 2.2, "1.5-5b": 4.0, "1.5-5b-i2v": 4.5}
"""Expected on an H100 for a LoRA, with the start of the process."""
SFT_FACTOR = 1.6
TINY = {"2b": "tiny-2b", "5b": "tiny-5b", "5b-i2v": "tiny-5b-i2v", "1.5-5b": "tiny-1.5", "1.5-5b-i2v": "tiny-1.5-i2v"}
"""The small model of the same shape (`--simulate`)."""


@dataclass(frozen=True)
class Measurement:
    """Some training steps of one command line."""

    piece: str
    settings: str
    """Overrides of conf/train.yaml."""
    validation: bool = False
    """Whether a video is sampled after the steps."""
    factory: bool = False
    """Whether the CogVideoX Factory's script is run with these settings, not this project."""

    @property
    def key(self) -> str:
        """What makes it the same measurement as another one."""
        return settings_key(self.settings, self.factory)

    @property
    def label(self) -> str:
        """For the terminal."""
        return f"CogVideoX Factory: {self.settings}" if self.factory else self.settings

    @property
    def model(self) -> str:
        """Name of the model."""
        return model_of(self.settings)

    @property
    def minutes(self) -> float:
        """How long it should take on an H100."""
        return MINUTES[self.model] * (SFT_FACTOR if "method=sft" in self.settings else 1.0)


def settings_key(settings: str, factory: bool = False) -> str:
    """Settings in an order of their own: that of a command line says nothing."""
    return " ".join([*sorted(settings.split()), *(["factory"] if factory else [])])


def model_of(settings: str) -> str:
    """The model that settings name."""
    found = re.search(r"(?:^|\s)model=(\S+)", settings)
    assert found, settings
    return found.group(1)


def simulated(settings: str) -> str:
    """The same settings for the small model of the same shape, in the type of the real one, with an attention kernel that
    runs without a GPU."""
    settings = re.sub(r"\s*\battention=(?!flash\b)\S+", "", settings)
    model = model_of(settings)
    dtype = "float16" if model == "2b" else "bfloat16"
    return settings.replace(f"model={model}", f"model={TINY[model]} model.native_dtype={dtype}", 1)


def all_measurements() -> list[Measurement]:
    """All pieces in their order; of equal settings the first counts."""
    of_targets = [text for text, _, _ in TARGETS]
    pieces = [
        *_piece("2b", (text for text in of_targets if "model=2b" in text), validation=True),
        *_piece("5b", (text for text in of_targets if "model=5b" in text and "lora" in text), validation=True),
        *_piece("5b-sft", (text for text in of_targets if "model=5b" in text and "sft" in text), validation=True),
        *_piece("5b-presets", PRESETS, validation=True),
        *_reference(),
        *(row for name, rows in SPEED.items() if "1.5" not in name for row in _piece(name, rows)),
        *_piece("5b-i2v", (text for text in MATRIX if "model=5b-i2v" in text), validation=True),
        *(row for row in _models_1_5()),
        *(row for name, rows in SPEED.items() if "1.5" in name for row in _piece(name, rows)),
        *_piece("matrix", MATRIX, validation=True),
    ]
    found: dict[str, Measurement] = {}
    for row in pieces:
        found.setdefault(row.key, row)
    return list(found.values())


def pieces_of(measurements: Iterable[Measurement]) -> list[str]:
    """Names of the pieces, in their order."""
    return list(dict.fromkeys([TESTS, BLOCKS, *(row.piece for row in measurements)]))


def _piece(name: str, settings: Iterable[str], *, validation: bool = False) -> list[Measurement]:
    return [Measurement(name, " ".join(text.split()), validation) for text in settings]


def _models_1_5() -> list[Measurement]:
    return [
        row
        for model in ("1.5-5b", "1.5-5b-i2v")
        for row in _piece(model, (text for text in MATRIX if f"model={model} " in text), validation=True)
    ]


def _reference() -> list[Measurement]:
    """Each of its settings here, and right after it in its own script."""
    pairs = [(text, factory) for text in REFERENCE for factory in (False, True)]
    return [Measurement("reference", text, factory=factory) for text, factory in pairs]
