"""Settings of the dataset."""

from benchmarks.mutants.mutant import Mutant

SOURCES, DATASET, FRAMES, BUCKETS = "data/forms/sources.py", "data/dataset.py", "data/frames.py", "data/buckets.py"
TABLES, SAMPLES, PREPARE, LOADER = (
    "data/forms/tables.py",
    "loading/samples.py",
    "latents/prepare.py",
    "loading/data_loader.py",
)
BAD_INPUT, ENCODING = "integration/test_bad_input.py", "integration/test_prepare.py"
CONTROL, MANIFESTS, BUCKET = "unit/test_control.py", "unit/test_manifests.py", "unit/test_buckets.py"

MUTANTS = {
    "data.source": Mutant(
        SOURCES,
        'READERS[form or "files"]',
        'READERS["files"]',
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.root": Mutant(
        SOURCES,
        'if source.source == "hub" else Path(source.root)',
        'if source.source == "hub" else Path(".")',
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.caption_column": Mutant(
        TABLES,
        "named[source.caption_column])",
        'named["prompt"])',
        "unit/test_settings_of_data.py::test_a_table_has_the_names_that_are_set",
    ),
    "data.video_column": Mutant(
        TABLES,
        "named[source.video_column], named",
        'named["video"], named',
        "unit/test_settings_of_data.py::test_a_table_has_the_names_that_are_set",
    ),
    "data.control_column": Mutant(
        SOURCES,
        "(source.control_column, source.mask_column))",
        '("control", source.mask_column))',
        "unit/test_settings_of_data.py::test_control_videos_have_the_names_that_are_set",
    ),
    "data.mask_column": Mutant(
        SOURCES,
        "(source.control_column, source.mask_column))",
        '(source.control_column, "mask"))',
        "unit/test_settings_of_data.py::test_control_videos_have_the_names_that_are_set",
    ),
    "data.dataset_file": Mutant(
        TABLES,
        "place.root / source.dataset_file",
        'place.root / "dataset.csv"',
        "unit/test_settings_of_data.py::test_a_table_has_the_names_that_are_set",
    ),
    "data.form": Mutant(
        SOURCES,
        'form = source.form if source.source == "hub"',
        'form = "files" if source.source == "hub"',
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.revision": Mutant(
        SOURCES,
        "fetch(source.root, source.revision,",
        "fetch(source.root, None,",
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.reader.target": Mutant(
        SOURCES,
        'imported(source.reader, "data.reader", "root")',
        "lambda root: []",
        "unit/test_manifests.py::test_a_reader_of_your_own_gives_rows_and_issues",
    ),
    "data.reader.kwargs": Mutant(
        "config/imported.py",
        "return partial(found, **settings.kwargs)",
        "return partial(found)",
        "unit/test_scores.py::test_a_score_gets_the_frames_and_its_arguments",
    ),
    "data.clips": Mutant(
        SOURCES,
        "make_demo(root, source.clips,",
        "make_demo(root, 22,",
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.concept": Mutant(
        SOURCES,
        "source.clips, source.concept, source.drawn",
        'source.clips, "sketch", source.drawn',
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.drawn": Mutant(
        SOURCES,
        "source.concept, source.drawn)",
        "source.concept, (17, 32, 48))",
        "unit/test_settings_of_data.py::test_a_source_is_read_where_and_how_it_says",
    ),
    "data.id_token": Mutant(
        SOURCES,
        "_with_token(row, source.id_token)",
        "_with_token(row, None)",
        "unit/test_settings_of_data.py::test_a_table_has_the_names_that_are_set",
    ),
    "data.repeats": Mutant(
        DATASET,
        "[source.repeats for source in sources]",
        "[1.0 for source in sources]",
        "unit/test_settings_of_data.py::test_sources_are_seen_as_often_as_they_say",
    ),
    "data.sources.source": Mutant(
        "config/schema/data.py",
        "if self.sources is not None:",
        "if False:",
        "unit/test_config.py::test_a_source_of_a_mix_has_the_defaults_of_its_form",
    ),
    "data.sources.weight": Mutant(
        DATASET,
        "[source.weight for source in sources]",
        "[None for source in sources]",
        "unit/test_settings_of_data.py::test_sources_are_seen_as_often_as_they_say",
    ),
    "data.allow_outside_root": Mutant(
        DATASET,
        "read_source(source, data.allow_outside_root,",
        "read_source(source, False,",
        "unit/test_settings_of_data.py::test_sources_are_seen_as_often_as_they_say",
    ),
    "data.control": Mutant(
        "data/control/reading.py",
        'if data.control in (None, "files", "masks"):',
        "if True:",
        "unit/test_settings_of_data.py::test_a_control_is_computed_with_its_arguments",
    ),
    "data.control_kwargs": Mutant(
        "data/control/reading.py",
        "recipe_of(data.control, data.control_kwargs)",
        "recipe_of(data.control, {})",
        "unit/test_settings_of_data.py::test_a_control_is_computed_with_its_arguments",
    ),
    "data.control_images": Mutant(
        "data/control/files.py",
        "if data.control_images:",
        "if False:",
        "unit/test_control.py::test_an_image_is_a_still_control_when_told_so",
    ),
    "data.caption_dropout": Mutant(
        SAMPLES,
        "self.caption_dropout = data.caption_dropout",
        "self.caption_dropout = 0.1",
        "unit/test_settings_of_data.py::test_samples_drop_captions_and_flip_as_often_as_set",
    ),
    "data.random_flip": Mutant(
        SAMPLES,
        "self.random_flip = data.random_flip",
        "self.random_flip = 0.0",
        "unit/test_settings_of_data.py::test_samples_drop_captions_and_flip_as_often_as_set",
    ),
    "data.skip_frames_start": Mutant(
        FRAMES,
        "FrameChoice(count, data.skip_frames_start,",
        "FrameChoice(count, 0,",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.skip_frames_end": Mutant(
        FRAMES,
        "FrameChoice(count, data.skip_frames_start, data.skip_frames_end,",
        "FrameChoice(count, data.skip_frames_start, 0,",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.fps": Mutant(
        FRAMES,
        "data.skip_frames_end, data.fps)",
        "data.skip_frames_end, None)",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.max_num_frames": Mutant(
        FRAMES,
        "min(kept, data.max_num_frames)",
        "kept",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.height_buckets": Mutant(
        BUCKETS,
        "product(data.height_buckets,",
        "product([480],",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.width_buckets": Mutant(
        BUCKETS,
        "data.width_buckets), key",
        "[720]), key",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.frame_buckets": Mutant(
        BUCKETS,
        "for count in data.frame_buckets if",
        "for count in [49] if",
        "unit/test_settings_of_data.py::test_frames_and_sizes_are_those_of_the_settings",
    ),
    "data.reshape": Mutant(
        PREPARE,
        "ResizeSpec(data.reshape, flip",
        'ResizeSpec("center", flip',
        "unit/test_settings_of_data.py::test_clips_are_encoded_with_the_settings",
    ),
    "data.holdout": Mutant(
        DATASET,
        "wanted: int | float | list[str] = data.holdout",
        "wanted: int | float | list[str] = 0",
        "unit/test_holdout.py::test_a_share_above_zero_holds_out_at_least_one",
    ),
    "data.on_error": Mutant(
        DATASET,
        '        if data.on_error == "raise":',
        "        if True:",
        "unit/test_settings_of_data.py::test_issues_stop_a_run_or_are_skipped",
    ),
    "data.encode": Mutant(
        "latents/dataset.py",
        'everything if data.encode == "cache" else dataset.held_out',
        "everything",
        "unit/test_settings_of_data.py::test_clips_are_encoded_before_or_in_the_loop",
    ),
    "data.encode_batch_size": Mutant(
        PREPARE,
        "_groups(works, data.encode_batch_size)",
        "_groups(works, 1)",
        "unit/test_settings_of_data.py::test_clips_are_encoded_with_the_settings",
    ),
    "data.remainder": Mutant(
        "loading/stream.py",
        'drop = job.data.remainder == "drop"',
        "drop = False",
        "unit/test_settings_of_training.py::test_batches_are_drawn_as_the_job_says",
    ),
    "data.workers": Mutant(
        LOADER,
        "workers = _possible(data.workers)",
        "workers = _possible(0)",
        "unit/test_settings_of_data.py::test_batches_are_loaded_with_the_settings",
    ),
    "data.decode_workers": Mutant(
        PREPARE,
        "DecodingPool(data.decode_workers, data.decode_timeout)",
        "DecodingPool(2, data.decode_timeout)",
        "unit/test_settings_of_data.py::test_clips_are_encoded_with_the_settings",
    ),
    "data.decode_timeout": Mutant(
        PREPARE,
        "DecodingPool(data.decode_workers, data.decode_timeout)",
        "DecodingPool(data.decode_workers, 120)",
        "unit/test_settings_of_data.py::test_clips_are_encoded_with_the_settings",
    ),
    "data.pin_memory": Mutant(
        LOADER,
        'pin_memory=data.pin_memory and device.type == "cuda",',
        'pin_memory=device.type == "cuda",',
        "unit/test_settings_of_data.py::test_batches_are_loaded_with_the_settings",
    ),
}
