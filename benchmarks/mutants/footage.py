"""Settings of the modes of `prepare`."""

from benchmarks.mutants.mutant import Mutant

SPLIT, CLIPS, SCAN, FILES = (
    "footage/split/split.py",
    "footage/split/clips.py",
    "footage/split/scan.py",
    "footage/split/files.py",
)
DECIDE, SERVER, BACKENDS = "footage/filter/decide.py", "footage/caption/server.py", "footage/caption/backends.py"
STAGE, REQUEST, REVIEW = "footage/caption/caption.py", "footage/caption/request.py", "footage/review/review.py"

MUTANTS = {
    "mode": Mutant(
        "prepare.py",
        ".get(job.mode, make_dataset)",
        '.get("encode", make_dataset)',
        "unit/test_settings_of_footage.py::test_prepare_does_what_its_mode_says",
    ),
    "inspect.output_dir": Mutant(
        "latents/inspect.py",
        'job.inspect.output_dir / "index.html"',
        '__import__("pathlib").Path("outputs/inspect/index.html")',
        "unit/test_settings_of_outputs.py::test_pages_show_the_rows_that_are_set",
    ),
    "inspect.clips": Mutant(
        "latents/inspect.py",
        "clips[: job.inspect.clips]",
        "clips[:24]",
        "unit/test_settings_of_outputs.py::test_pages_show_the_rows_that_are_set",
    ),
    "split.dataset_file": Mutant(
        SPLIT,
        "self._root / job.split.dataset_file",
        'self._root / "dataset.jsonl"',
        "unit/test_settings_of_footage.py::test_pools_have_the_time_that_is_set",
    ),
    "split.detector": Mutant(
        SCAN, "}[settings.detector]", '}["adaptive"]', "unit/test_settings_of_footage.py::test_scenes_are_split_as_set"
    ),
    "split.threshold": Mutant(
        SCAN,
        "{} if settings.threshold is None else {argument: settings.threshold}",
        "{}",
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.seconds": Mutant(
        CLIPS,
        "scan.timeline, settings.seconds)",
        "scan.timeline, [2.0, 10.0])",
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.black": Mutant(
        CLIPS,
        "scan.peak < settings.black",
        "scan.peak < 24",
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.flash": Mutant(
        CLIPS,
        "_flashes(scan.brightness, settings.flash)",
        "_flashes(scan.brightness, 40)",
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.still": Mutant(
        CLIPS,
        "_still(scene, scan, settings.still)",
        "_still(scene, scan, 0.2)",
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.crop_bars": Mutant(
        CLIPS, "if settings.crop_bars and", "if", "unit/test_settings_of_footage.py::test_scenes_are_split_as_set"
    ),
    "split.write": Mutant(
        SPLIT, "if settings.write:", "if False:", "unit/test_settings_of_footage.py::test_scenes_are_split_as_set"
    ),
    "split.clips_dir": Mutant(
        FILES,
        "root / settings.clips_dir /",
        'root / "clips" /',
        "unit/test_settings_of_footage.py::test_scenes_are_split_as_set",
    ),
    "split.timeout": Mutant(
        SPLIT,
        "DecodingPool(workers, job.split.timeout,",
        "DecodingPool(workers, 7200,",
        "unit/test_settings_of_footage.py::test_pools_have_the_time_that_is_set",
    ),
    "filter.sharpness": Mutant(
        DECIDE,
        'if name == "sharpness":\n        return value, None',
        'if name == "sharpness":\n        return 10.0, None',
        "unit/test_settings_of_footage.py::test_clips_are_kept_within_the_limits",
    ),
    "filter.exposure": Mutant(
        DECIDE,
        "    if value is None:\n",
        '    if name == "exposure":\n        return 0.08, 0.92\n    if value is None:\n',
        "unit/test_settings_of_footage.py::test_clips_are_kept_within_the_limits",
    ),
    "filter.motion": Mutant(
        DECIDE,
        "    if value is None:\n",
        '    if name == "motion":\n        return 0.5, 300.0\n    if value is None:\n',
        "unit/test_settings_of_footage.py::test_clips_are_kept_within_the_limits",
    ),
    "filter.cuts": Mutant(
        DECIDE,
        "    if value is None:\n",
        '    if name == "cuts":\n        return None, 0\n    if value is None:\n',
        "unit/test_settings_of_footage.py::test_clips_are_kept_within_the_limits",
    ),
    "filter.text": Mutant(
        "footage/filter/filter.py",
        "[: 1 if self._job.filter.text is None else 2]",
        "[:1]",
        "unit/test_settings_of_footage.py::test_pools_have_the_time_that_is_set",
    ),
    "filter.duplicates": Mutant(
        DECIDE,
        "near_duplicates(hashes, settings.duplicates)",
        "near_duplicates(hashes, 8)",
        "unit/test_settings_of_footage.py::test_clips_are_kept_within_the_limits",
    ),
    "filter.timeout": Mutant(
        "footage/filter/filter.py",
        "DecodingPool(workers, job.filter.timeout,",
        "DecodingPool(workers, 600,",
        "unit/test_settings_of_footage.py::test_pools_have_the_time_that_is_set",
    ),
    "caption.backend": Mutant(
        BACKENDS,
        'if settings.backend == "transformers" else',
        "if True else",
        "unit/test_settings_of_footage.py::test_the_backend_is_the_one_that_is_set",
    ),
    "caption.model": Mutant(
        SERVER,
        'body = {"model": settings.model,',
        'body = {"model": "Qwen/Qwen2.5-VL-7B-Instruct",',
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.url": Mutant(
        SERVER,
        'settings.url.rstrip("/")',
        '"http://localhost:8000/v1"',
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.key_variable": Mutant(
        SERVER,
        'os.environ.get(settings.key_variable, "")',
        'os.environ.get("OPENAI_API_KEY", "")',
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.frames": Mutant(
        STAGE,
        "row.window, settings.frames,",
        "row.window, 8,",
        "unit/test_settings_of_footage.py::test_a_request_has_what_is_set",
    ),
    "caption.height": Mutant(
        STAGE,
        "settings.frames, settings.height)",
        "settings.frames, 384)",
        "unit/test_settings_of_footage.py::test_a_request_has_what_is_set",
    ),
    "caption.instruction": Mutant(
        REQUEST,
        "text = settings.instruction",
        'text = ""',
        "unit/test_settings_of_footage.py::test_a_request_has_what_is_set",
    ),
    "caption.examples": Mutant(
        REQUEST,
        "if settings.examples:",
        "if False:",
        "unit/test_settings_of_footage.py::test_a_request_has_what_is_set",
    ),
    "caption.trigger": Mutant(
        STAGE,
        "most, job.caption.trigger)",
        "most, None)",
        "unit/test_settings_of_footage.py::test_a_request_has_what_is_set",
    ),
    "caption.temperature": Mutant(
        SERVER,
        '"temperature": settings.temperature}',
        '"temperature": 0.2}',
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.max_tokens": Mutant(
        SERVER,
        '"max_tokens": settings.max_tokens}',
        '"max_tokens": 400}',
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.batch_size": Mutant(
        BACKENDS,
        "self.batch_size, self._settings = settings.batch_size, settings",
        "self.batch_size, self._settings = 4, settings",
        "unit/test_settings_of_footage.py::test_the_backend_is_the_one_that_is_set",
    ),
    "caption.tensor_parallel": Mutant(
        BACKENDS,
        "tensor_parallel_size=settings.tensor_parallel",
        "tensor_parallel_size=1",
        "unit/test_settings_of_footage.py::test_the_backend_is_the_one_that_is_set",
    ),
    "caption.concurrency": Mutant(
        SERVER,
        "self.concurrency, self._settings = settings.concurrency, settings",
        "self.concurrency, self._settings = 8, settings",
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.requests_per_minute": Mutant(
        SERVER,
        "RateLimit(settings.requests_per_minute)",
        "RateLimit(None)",
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.timeout": Mutant(
        SERVER,
        "timeout=self._settings.timeout)",
        "timeout=120)",
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.retries": Mutant(
        SERVER,
        "range(self._settings.retries, -1, -1)",
        "range(5, -1, -1)",
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.backoff": Mutant(
        SERVER,
        "wait = self._settings.backoff",
        "wait = 1.0",
        "unit/test_settings_of_footage.py::test_a_server_is_asked_as_set",
    ),
    "caption.overwrite": Mutant(
        STAGE,
        "(settings.overwrite or not",
        "(not",
        "unit/test_settings_of_footage.py::test_captions_are_replaced_if_asked_to",
    ),
    "review.output_dir": Mutant(
        REVIEW,
        'page = settings.output_dir / "index.html"',
        'page = __import__("pathlib").Path("outputs/review/index.html")',
        "unit/test_settings_of_outputs.py::test_pages_show_the_rows_that_are_set",
    ),
    "review.first": Mutant(
        REVIEW,
        "for index in range(settings.first - 1, min(last, len(records)))",
        "for index in range(0, min(last, len(records)))",
        "unit/test_settings_of_outputs.py::test_pages_show_the_rows_that_are_set",
    ),
    "review.clips": Mutant(
        REVIEW,
        "last = settings.first - 1 + settings.clips",
        "last = settings.first - 1 + 200",
        "unit/test_settings_of_outputs.py::test_pages_show_the_rows_that_are_set",
    ),
}
