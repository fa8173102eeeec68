"""Settings of the modes of `prepare`."""

from benchmarks.mutants.mutant import Mutant

SPLIT, CLIPS, SCAN, FILES = "footage/split/split.py", "footage/split/clips.py", "footage/split/scan.py", "footage/split/files.py"
DECIDE, SERVER, BACKENDS = "footage/filter/decide.py", "footage/caption/server.py", "footage/caption/backends.py"
STAGE, REQUEST, REVIEW = "footage/caption/caption.py", "footage/caption/request.py", "footage/review/review.py"
SPLITTING, FILTERING, CAPTIONS, WHOLE = "unit/test_split.py", "unit/test_filter.py", "unit/test_caption.py", "integration/test_footage.py"

MUTANTS = {
    "mode": Mutant("prepare.py", ".get(job.mode, make_dataset)", '.get("encode", make_dataset)', FILTERING),
    "inspect.output_dir": Mutant("latents/inspect.py", 'job.inspect.output_dir / "index.html"', '__import__("pathlib").Path("outputs/inspect/index.html")', "integration/test_prepare.py"),
    "inspect.clips": Mutant("latents/inspect.py", "clips[: job.inspect.clips]", "clips[:24]", "integration/test_prepare.py"),
    "split.dataset_file": Mutant(SPLIT, "self._root / job.split.dataset_file", 'self._root / "dataset.jsonl"', SPLITTING),
    "split.detector": Mutant(SCAN, "}[settings.detector]", '}["adaptive"]', SPLITTING),
    "split.threshold": Mutant(SCAN, "{} if settings.threshold is None else {argument: settings.threshold}", "{}", SPLITTING),
    "split.seconds": Mutant(CLIPS, "scan.timeline, settings.seconds)", "scan.timeline, [2.0, 10.0])", SPLITTING),
    "split.black": Mutant(CLIPS, "scan.peak < settings.black", "scan.peak < 24", SPLITTING),
    "split.flash": Mutant(CLIPS, "_flashes(scan.brightness, settings.flash)", "_flashes(scan.brightness, 40)", SPLITTING),
    "split.still": Mutant(CLIPS, "_still(scene, scan, settings.still)", "_still(scene, scan, 0.2)", SPLITTING),
    "split.crop_bars": Mutant(CLIPS, "if settings.crop_bars and", "if", SPLITTING),
    "split.write": Mutant(SPLIT, "if settings.write:", "if False:", SPLITTING),
    "split.clips_dir": Mutant(FILES, "root / settings.clips_dir /", 'root / "clips" /', SPLITTING),
    "split.timeout": Mutant(SPLIT, "DecodingPool(workers, job.split.timeout,", "DecodingPool(workers, 7200,", SPLITTING),
    "filter.sharpness": Mutant(DECIDE, 'if name == "sharpness":\n        return value, None', 'if name == "sharpness":\n        return 10.0, None', FILTERING),
    "filter.exposure": Mutant(DECIDE, "    if value is None:\n", '    if name == "exposure":\n        return 0.08, 0.92\n    if value is None:\n', FILTERING),
    "filter.motion": Mutant(DECIDE, "    if value is None:\n", '    if name == "motion":\n        return 0.5, 300.0\n    if value is None:\n', FILTERING),
    "filter.cuts": Mutant(DECIDE, "    if value is None:\n", '    if name == "cuts":\n        return None, 0\n    if value is None:\n', FILTERING),
    "filter.text": Mutant("footage/filter/filter.py", "[: 1 if self._job.filter.text is None else 2]", "[:1]", "unit/test_footage_text.py"),
    "filter.duplicates": Mutant(DECIDE, "near_duplicates(hashes, settings.duplicates)", "near_duplicates(hashes, 8)", FILTERING),
    "filter.timeout": Mutant("footage/filter/filter.py", "DecodingPool(workers, job.filter.timeout,", "DecodingPool(workers, 600,", FILTERING),
    "caption.backend": Mutant(BACKENDS, 'if settings.backend == "transformers" else', "if True else", CAPTIONS),
    "caption.model": Mutant(SERVER, 'body = {"model": settings.model,', 'body = {"model": "Qwen/Qwen2.5-VL-7B-Instruct",', CAPTIONS),
    "caption.url": Mutant(SERVER, 'settings.url.rstrip("/")', '"http://localhost:8000/v1"', CAPTIONS),
    "caption.key_variable": Mutant(SERVER, 'os.environ.get(settings.key_variable, "")', 'os.environ.get("OPENAI_API_KEY", "")', CAPTIONS),
    "caption.frames": Mutant(STAGE, "row.window, settings.frames,", "row.window, 8,", CAPTIONS),
    "caption.height": Mutant(STAGE, "settings.frames, settings.height)", "settings.frames, 384)", CAPTIONS),
    "caption.instruction": Mutant(REQUEST, "text = settings.instruction", 'text = ""', CAPTIONS),
    "caption.examples": Mutant(REQUEST, "if settings.examples:", "if False:", CAPTIONS),
    "caption.trigger": Mutant(STAGE, "most, job.caption.trigger)", "most, None)", CAPTIONS),
    "caption.temperature": Mutant(SERVER, '"temperature": settings.temperature}', '"temperature": 0.2}', CAPTIONS),
    "caption.max_tokens": Mutant(SERVER, '"max_tokens": settings.max_tokens}', '"max_tokens": 400}', CAPTIONS),
    "caption.batch_size": Mutant(BACKENDS, "self.batch_size, self._settings = settings.batch_size, settings", "self.batch_size, self._settings = 4, settings", CAPTIONS),
    "caption.tensor_parallel": Mutant(BACKENDS, "tensor_parallel_size=settings.tensor_parallel", "tensor_parallel_size=1", CAPTIONS),
    "caption.concurrency": Mutant(SERVER, "self.concurrency, self._settings = settings.concurrency, settings", "self.concurrency, self._settings = 8, settings", CAPTIONS),
    "caption.requests_per_minute": Mutant(SERVER, "RateLimit(settings.requests_per_minute)", "RateLimit(None)", CAPTIONS),
    "caption.timeout": Mutant(SERVER, "timeout=self._settings.timeout)", "timeout=120)", CAPTIONS),
    "caption.retries": Mutant(SERVER, "range(self._settings.retries, -1, -1)", "range(5, -1, -1)", CAPTIONS),
    "caption.backoff": Mutant(SERVER, "wait = self._settings.backoff", "wait = 1.0", CAPTIONS),
    "caption.overwrite": Mutant(STAGE, "(settings.overwrite or not", "(not", CAPTIONS),
    "review.output_dir": Mutant(REVIEW, 'page = settings.output_dir / "index.html"', 'page = __import__("pathlib").Path("outputs/review/index.html")', WHOLE),
    "review.first": Mutant(REVIEW, "for index in range(settings.first - 1, min(last, len(records)))", "for index in range(0, min(last, len(records)))", WHOLE),
    "review.clips": Mutant(REVIEW, "last = settings.first - 1 + settings.clips", "last = settings.first - 1 + 200", WHOLE),
}
