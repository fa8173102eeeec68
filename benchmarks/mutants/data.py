"""Settings of the dataset."""

from benchmarks.mutants.mutant import Mutant

SOURCES, DATASET, FRAMES, BUCKETS = "data/forms/sources.py", "data/dataset.py", "data/frames.py", "data/buckets.py"
TABLES, SAMPLES, PREPARE, LOADER = "data/forms/tables.py", "loading/samples.py", "latents/prepare.py", "loading/data_loader.py"
BAD_INPUT, ENCODING = "integration/test_bad_input.py", "integration/test_prepare.py"
CONTROL, MANIFESTS, BUCKET = "unit/test_control.py", "unit/test_manifests.py", "unit/test_buckets.py"

MUTANTS = {
    "data.source": Mutant(SOURCES, 'READERS[form or "files"]', 'READERS["files"]', MANIFESTS),
    "data.root": Mutant(SOURCES, 'if source.source == "hub" else Path(source.root)', 'if source.source == "hub" else Path(".")', MANIFESTS),
    "data.caption_column": Mutant(TABLES, "named[source.caption_column])", 'named["prompt"])', BAD_INPUT),
    "data.video_column": Mutant(TABLES, "named[source.video_column], named", 'named["video"], named', BAD_INPUT),
    "data.control_column": Mutant(SOURCES, "(source.control_column, source.mask_column))", '("control", source.mask_column))', CONTROL),
    "data.mask_column": Mutant(SOURCES, "(source.control_column, source.mask_column))", '(source.control_column, "mask"))', CONTROL),
    "data.dataset_file": Mutant(TABLES, "place.root / source.dataset_file", 'place.root / "dataset.csv"', MANIFESTS),
    "data.form": Mutant(SOURCES, 'form = source.form if source.source == "hub"', 'form = "files" if source.source == "hub"', MANIFESTS),
    "data.revision": Mutant(SOURCES, "fetch(source.root, source.revision,", "fetch(source.root, None,", BAD_INPUT),
    "data.reader.target": Mutant(SOURCES, 'imported(source.reader, "data.reader", "root")', "lambda root: []", MANIFESTS),
    "data.reader.kwargs": Mutant("config/imported.py", "inspect.signature(found).bind(*arguments, **settings.kwargs)", "inspect.signature(found).bind(*arguments)", MANIFESTS),
    "data.clips": Mutant(SOURCES, "make_demo(root, source.clips,", "make_demo(root, 22,", "unit/test_world.py"),
    "data.concept": Mutant(SOURCES, "source.clips, source.concept, source.drawn", 'source.clips, "sketch", source.drawn', "unit/test_world.py"),
    "data.drawn": Mutant(SOURCES, "source.concept, source.drawn)", "source.concept, (17, 32, 48))", "unit/test_world.py"),
    "data.id_token": Mutant(SOURCES, "_with_token(row, source.id_token)", "_with_token(row, None)", BAD_INPUT),
    "data.repeats": Mutant(DATASET, "[source.repeats for source in sources]", "[1.0 for source in sources]", "unit/test_sampler.py"),
    "data.sources.source": Mutant("config/schema/data.py", "if self.sources is not None:", "if False:", "unit/test_config.py"),
    "data.sources.weight": Mutant(DATASET, "[source.weight for source in sources]", "[None for source in sources]", "unit/test_sampler.py"),
    "data.allow_outside_root": Mutant(DATASET, "read_source(source, data.allow_outside_root,", "read_source(source, False,", BAD_INPUT),
    "data.control": Mutant("data/control/reading.py", 'if data.control in (None, "files", "masks"):', "if True:", CONTROL),
    "data.control_kwargs": Mutant("data/control/reading.py", "recipe_of(data.control, data.control_kwargs)", "recipe_of(data.control, {})", CONTROL),
    "data.control_images": Mutant("data/control/files.py", "if data.control_images:", "if False:", CONTROL),
    "data.caption_dropout": Mutant(SAMPLES, "self.caption_dropout = data.caption_dropout", "self.caption_dropout = 0.1", ENCODING),
    "data.random_flip": Mutant(SAMPLES, "self.random_flip = data.random_flip", "self.random_flip = 0.0", ENCODING),
    "data.skip_frames_start": Mutant(FRAMES, "FrameChoice(count, data.skip_frames_start,", "FrameChoice(count, 0,", BUCKET),
    "data.skip_frames_end": Mutant(FRAMES, "FrameChoice(count, data.skip_frames_start, data.skip_frames_end,", "FrameChoice(count, data.skip_frames_start, 0,", BUCKET),
    "data.fps": Mutant(FRAMES, "data.skip_frames_end, data.fps)", "data.skip_frames_end, None)", BUCKET),
    "data.max_num_frames": Mutant(FRAMES, "min(kept, data.max_num_frames)", "kept", BUCKET),
    "data.height_buckets": Mutant(BUCKETS, "product(data.height_buckets,", "product([480],", BUCKET),
    "data.width_buckets": Mutant(BUCKETS, "data.width_buckets), key", "[720]), key", BUCKET),
    "data.frame_buckets": Mutant(BUCKETS, "for count in data.frame_buckets if", "for count in [49] if", BUCKET),
    "data.reshape": Mutant(PREPARE, "ResizeSpec(data.reshape, flip", 'ResizeSpec("center", flip', ENCODING),
    "data.holdout": Mutant(DATASET, "wanted: int | float | list[str] = data.holdout", "wanted: int | float | list[str] = 0", "unit/test_holdout.py"),
    "data.on_error": Mutant(DATASET, '        if data.on_error == "raise":', "        if True:", BAD_INPUT),
    "data.encode": Mutant("latents/dataset.py", 'everything if data.encode == "cache" else dataset.held_out', "everything", ENCODING),
    "data.encode_batch_size": Mutant(PREPARE, "_groups(works, data.encode_batch_size)", "_groups(works, 1)", ENCODING),
    "data.remainder": Mutant("loading/stream.py", 'drop = job.data.remainder == "drop"', "drop = False", "integration/test_resumed_runs.py"),
    "data.workers": Mutant(LOADER, "workers = _possible(data.workers)", "workers = _possible(0)", "unit/test_small_machines.py"),
    "data.decode_workers": Mutant(PREPARE, "DecodingPool(data.decode_workers, data.decode_timeout)", "DecodingPool(2, data.decode_timeout)", ENCODING),
    "data.decode_timeout": Mutant(PREPARE, "DecodingPool(data.decode_workers, data.decode_timeout)", "DecodingPool(data.decode_workers, 120)", "integration/test_odd_videos.py"),
    "data.pin_memory": Mutant(LOADER, 'pin_memory=data.pin_memory and device.type == "cuda",', 'pin_memory=device.type == "cuda",', "unit/test_prefetch.py"),
}
