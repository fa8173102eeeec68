"""Settings whose memory is predicted (memory.py) and measured (gpu/), beside the CogVideoX Factory's figures."""

LORA = "method=lora method.rank=64"
RELEASE = "optim.stochastic_rounding=true optim.release_gradients=true max_grad_norm=null"
TARGETS = [
    # settings, reference without and with validation, wanted without and with validation
    (f"model=2b {LORA} memory=24gb", (13.0, 21.6), (7, 8)),
    (f"model=2b {LORA} memory=16gb", (13.0, 21.6), (7, 8)),
    (f"model=5b {LORA} memory=24gb", (20.8, 30.3), (14, 16)),
    (f"model=5b {LORA} memory=16gb", (20.8, 30.3), (14, 16)),
    (f"model=5b {LORA} memory=12gb", (20.8, 30.3), (14, 16)),
    (f"model=5b {LORA} memory=24gb quant=int8", (20.8, 30.3), (14, 16)),
    (f"model=5b {LORA} memory=24gb quant=nf4", (20.8, 30.3), (8, 10)),
    ("model=2b method=sft memory=24gb model.dtype=bfloat16 optim=cpu_offload_bf16", (16.4, 26.1), (10, 12)),
    (f"model=2b method=sft memory=24gb model.dtype=bfloat16 optim=ao_adamw8bit {RELEASE}", (16.4, 26.1), (10, 12)),
    ("model=5b method=sft memory=24gb optim=cpu_offload_bf16", (39.4, 48.3), (20, 24)),
    (f"model=5b method=sft memory=24gb optim=ao_adamw4bit {RELEASE}", (39.4, 48.3), (20, 24)),
]

MATRIX = [
    f"model={model} {task} memory=24gb method={method}"
    for model, task in (
        ("2b", ""),
        ("5b", ""),
        ("5b-i2v", "task=i2v"),
        ("1.5-5b", ""),
        ("1.5-5b-i2v", "task=i2v"),
    )
    for method in ("lora method.rank=64", "sft optim=cpu_offload_bf16 model.dtype=bfloat16")
]

PRESETS = [f"model=5b {LORA} memory={preset}" for preset in ("default", "fast", "24gb", "16gb", "12gb")]

ADAMW, ADAMW8, OFFLOAD = "optim=adamw", "optim=adamw8bit", "optim=cpu_offload"
OOM = float("nan")
# From the CogVideoX Factory's README (github.com/huggingface/cogvideox-factory), GiB on one A100 with 80 GB:
# before training, before validation, after validation, after testing.
LORA_TABLE = {
    (ADAMW, 1): {
        ("2b", 16, "keep"): (12.945, 43.764, 46.918, 24.234),
        ("2b", 16, "checkpoint"): (12.945, 12.945, 21.121, 24.234),
        ("2b", 64, "keep"): (13.035, 44.314, 47.469, 24.469),
        ("2b", 64, "checkpoint"): (13.036, 13.035, 21.564, 24.500),
        ("2b", 256, "keep"): (13.095, 45.826, 48.990, 25.543),
        ("2b", 256, "checkpoint"): (13.094, 13.095, 22.344, 25.537),
        ("5b", 16, "checkpoint"): (19.742, 19.742, 28.746, 38.123),
        ("5b", 64, "checkpoint"): (20.006, 20.818, 30.338, 38.738),
        ("5b", 256, "checkpoint"): (20.771, 22.119, 31.939, 41.537),
    },
    (ADAMW, 4): {
        ("2b", 16, "checkpoint"): (12.945, 21.803, 21.814, 24.322),
        ("2b", 64, "checkpoint"): (13.035, 22.254, 22.254, 24.572),
        ("2b", 256, "checkpoint"): (13.094, 22.020, 22.033, 25.574),
        ("5b", 16, "checkpoint"): (19.742, 46.492, 46.492, 38.197),
        ("5b", 64, "checkpoint"): (20.006, 47.805, 47.805, 39.365),
        ("5b", 256, "checkpoint"): (20.771, 47.268, 47.332, 41.008),
    },
    (ADAMW8, 1): {
        ("2b", 16, "keep"): (12.945, 43.732, 46.887, 24.195),
        ("2b", 16, "checkpoint"): (12.945, 12.945, 21.430, 24.195),
        ("2b", 64, "keep"): (13.035, 44.004, 47.158, 24.369),
        ("2b", 64, "checkpoint"): (13.035, 13.035, 21.297, 24.357),
        ("2b", 256, "keep"): (13.035, 45.291, 48.455, 24.836),
        ("2b", 256, "checkpoint"): (13.035, 13.035, 21.625, 24.869),
        ("5b", 16, "checkpoint"): (19.742, 19.742, 28.602, 38.049),
        ("5b", 64, "checkpoint"): (20.006, 20.818, 29.359, 38.520),
        ("5b", 256, "checkpoint"): (20.771, 21.352, 30.727, 39.596),
    },
    (ADAMW8, 4): {
        ("2b", 16, "checkpoint"): (12.945, 21.734, 21.775, 24.281),
        ("2b", 64, "checkpoint"): (13.036, 21.941, 21.941, 24.445),
        ("2b", 256, "checkpoint"): (13.094, 22.020, 22.266, 24.943),
        ("5b", 16, "checkpoint"): (19.742, 46.320, 46.326, 38.104),
        ("5b", 64, "checkpoint"): (20.006, 46.820, 46.820, 38.588),
        ("5b", 256, "checkpoint"): (20.771, 47.920, 47.980, 40.002),
    },
    (OFFLOAD, 1): {
        ("2b", 16, "keep"): (12.945, 43.705, 46.859, 24.180),
        ("2b", 16, "checkpoint"): (12.945, 12.945, 21.395, 24.180),
        ("2b", 64, "keep"): (13.035, 43.916, 47.070, 24.234),
        ("2b", 64, "checkpoint"): (13.035, 13.035, 20.887, 24.266),
        ("2b", 256, "keep"): (13.095, 44.947, 48.111, 24.607),
        ("2b", 256, "checkpoint"): (13.095, 13.095, 21.391, 24.635),
        ("5b", 16, "checkpoint"): (19.742, 19.742, 28.533, 38.002),
        ("5b", 64, "checkpoint"): (20.006, 20.006, 29.107, 38.785),
        ("5b", 256, "checkpoint"): (20.771, 20.771, 30.078, 39.559),
    },
    (OFFLOAD, 4): {
        ("2b", 16, "checkpoint"): (12.945, 21.709, 21.762, 24.254),
        ("2b", 64, "checkpoint"): (13.035, 21.844, 21.855, 24.338),
        ("2b", 256, "checkpoint"): (13.095, 22.020, 22.031, 24.709),
        ("5b", 16, "checkpoint"): (19.742, 46.262, 46.297, 38.400),
        ("5b", 64, "checkpoint"): (20.006, 46.561, 46.574, 38.840),
        ("5b", 256, "checkpoint"): (20.771, 47.268, 47.332, 39.623),
    },
}
SFT_TABLE = {
    (ADAMW, 1): {("2b",): (16.396, 33.934, 43.848, 37.520), ("5b",): (30.061, OOM, OOM, OOM)},
    (ADAMW, 4): {("2b",): (16.396, 38.281, 48.341, 37.544), ("5b",): (30.061, OOM, OOM, OOM)},
    (ADAMW8, 1): {("2b",): (16.396, 16.447, 27.555, 27.156), ("5b",): (30.061, 52.826, 58.570, 49.541)},
    (ADAMW8, 4): {("2b",): (16.396, 27.930, 27.990, 27.326), ("5b",): (16.396, 66.648, 66.705, 48.828)},
    (OFFLOAD, 1): {("2b",): (16.396, 16.396, 26.100, 23.832), ("5b",): (30.061, 39.359, 48.307, 37.947)},
    (OFFLOAD, 4): {("2b",): (16.396, 27.916, 27.975, 23.936), ("5b",): (30.061, 66.607, 66.668, 38.061)},
}


def same_settings(method: str, optim: str, batch_size: int, key: tuple) -> tuple[str, str]:
    """The reference's settings of a row of its tables, and what both ways of training it here have in common."""
    model, rank, activations = (*key, "", "checkpoint")[:3] if len(key) == 1 else key
    shared = f"model={model} method={method} {optim} batch_size={batch_size} model.dtype=bfloat16"
    shared += f" method.rank={rank}" if rank else ""
    return f"{shared} memory.activations={activations} memory.norms=float32", shared
