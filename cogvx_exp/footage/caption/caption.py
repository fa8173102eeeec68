"""`mode=caption`: writes captions into the manifest."""

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import Bar, console
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.distributed.process_group import local_device
from cogvx_exp.footage.caption.backends import Backend, choose_backend
from cogvx_exp.footage.caption.request import Messages, encoded_frames, first_request
from cogvx_exp.footage.caption.writer import CaptionWriter
from cogvx_exp.footage.journal import Journal
from cogvx_exp.footage.manifest import Record, locked, read_manifest, write_manifest
from cogvx_exp.footage.rows import ClipRow, clip_rows, manifest_path
from cogvx_exp.footage.stage import raise_on_issues, share

VERSION = 1
"""Increase it when the same answers give other captions."""
ASKED = ("model", "instruction", "examples", "frames", "height", "trigger", "temperature", "max_tokens")
"""Settings that determine a caption."""

Asked = tuple[ClipRow, Messages | ClipError]
Answered = list[tuple[ClipRow, str | ClipError]]


class CaptionStage:
    """Asks for the captions of the kept rows that have none.

    Raises:
        UserError: the manifest cannot be read.
    """

    def __init__(self, job: PrepareJob):
        self._job, self._manifest = job, manifest_path(job.data)
        self._rows, self._issues = self._wanted(read_manifest(self._manifest))

    def work(self, rank: int, world_size: int) -> None:
        """See `Stage`."""
        job, journal = self._job, self._journal(rank)
        done = journal.load()
        rows = {self._key(row): row for row in share(self._rows, rank, world_size)}
        missing = [row for key, row in rows.items() if key not in done]
        issues = [] if rank else list(self._issues)
        if missing:
            with Bar("Captioning clips", len(missing)) as bar:
                started, finished = time.monotonic(), 0
                for answered in self._answers(missing):
                    good = [(self._key(row), text) for row, text in answered if isinstance(text, str)]
                    journal.append(good)
                    issues += [_issue(row, text) for row, text in answered if isinstance(text, ClipError)]
                    finished += len(answered)
                    bar.show(finished, _speed(finished, len(missing), time.monotonic() - started))
        report = job.cache_dir / (f"faults-{rank}.csv" if rank else "faults.csv")
        issues.sort(key=lambda issue: issue.row or 0)
        raise_on_issues(issues, job.data, report, ("clip", "could not be captioned"))

    def merge(self) -> None:
        """See `Stage`."""
        done, column = self._journal().load(), self._job.data.caption_column
        with locked(self._manifest):
            records = read_manifest(self._manifest)
            rows, _ = self._wanted(records)
            written = {index: done[key] for index, row in rows.items() if (key := self._key(row)) in done}
            if written:
                for index, caption in written.items():
                    records[index] = records[index] | {column: caption}
                write_manifest(self._manifest, records)
        kept = [record for record in records if record.get("keep") is not False]
        count = sum(_has_caption(record, column) for record in kept)
        console.result(f"Manifest: {self._manifest} ({count} of {len(kept)} clips have a caption)")

    def _wanted(self, records: list[Record]) -> tuple[dict[int, ClipRow], list[DataIssue]]:
        """The rows that get a caption."""
        settings, data = self._job.caption, self._job.data
        wanted = [
            record.get("keep") is not False and (settings.overwrite or not _has_caption(record, data.caption_column))
            for record in records
        ]
        return clip_rows(records, wanted, data, self._job.cache_dir)

    def _answers(self, rows: list[ClipRow]) -> Iterator[Answered]:
        """Captions as they come, of the clips that were ready at the same time."""
        job = self._job
        backend = choose_backend(job.caption, local_device(job.device))
        writer = self._writer(backend)
        with (
            DecodingPool(job.data.decode_workers, job.data.decode_timeout) as decoding,
            ThreadPoolExecutor(backend.concurrency) as threads,
        ):
            batches = _batches(self._requests(rows, decoding), backend.batch_size)
            running: set[Future[Answered]] = set()
            try:
                while True:
                    # One more than are answered at a time, so that the next one is decoded by then.
                    for batch in islice(batches, backend.concurrency + 1 - len(running)):
                        running.add(threads.submit(_write, writer, batch))
                    if not running:
                        return
                    ready, running = wait(running, return_when=FIRST_COMPLETED)
                    answered, failure = _gathered(ready)
                    if failure:  # answers to the requests under way are kept
                        for future in running:
                            future.cancel()
                        answered += _gathered(wait(running).done)[0]
                    yield answered
                    if failure:
                        raise failure
            finally:
                threads.shutdown(wait=False, cancel_futures=True)

    def _requests(self, rows: list[ClipRow], decoding: DecodingPool) -> Iterator[Asked]:
        settings = self._job.caption
        tasks = ((row.path, row.window, settings.frames, settings.height) for row in rows)
        for row, frames in zip(rows, decoding.map(encoded_frames, tasks), strict=True):
            yield row, frames if isinstance(frames, ClipError) else first_request(frames, settings)

    def _writer(self, backend: Backend) -> CaptionWriter:
        from cogvx_exp.footage.caption.tokens import token_counter

        job = self._job
        most = job.model.transformer.max_text_seq_length
        return CaptionWriter(backend, token_counter(job.model, job.cache_dir), most, job.caption.trigger)

    def _key(self, row: ClipRow) -> str:
        asked = {name: getattr(self._job.caption, name) for name in ASKED}
        return row.key({"caption": VERSION, "most": self._job.model.transformer.max_text_seq_length, **asked})

    def _journal(self, rank: int = 0) -> Journal:
        return Journal(self._job.cache_dir / "footage" / "captions", rank)


def _write(writer: CaptionWriter, batch: list[Asked]) -> Answered:
    """The captions of a batch of clips; those that cannot be decoded keep their error."""
    good = [request for _, request in batch if not isinstance(request, ClipError)]
    captions = iter(writer.write(good) if good else [])
    return [(row, request if isinstance(request, ClipError) else next(captions)) for row, request in batch]


def _gathered(futures: set[Future[Answered]]) -> tuple[Answered, UserError | None]:
    """The captions of finished calls, and why no more can be written."""
    answered: Answered = []
    failure: UserError | None = None
    for future in futures:
        try:
            answered += future.result() if not future.cancelled() else []
        except UserError as error:
            failure = error
    return answered, failure


def _batches(requests: Iterator[Asked], size: int) -> Iterator[list[Asked]]:
    while batch := list(islice(requests, size)):
        yield batch


def _issue(row: ClipRow, error: str | ClipError) -> DataIssue:
    assert isinstance(error, ClipError)
    return issue_of(row.number, row.path, error)


def _has_caption(record: Record, column: str) -> bool:
    value = record.get(column)
    return bool(value.strip()) if isinstance(value, str) else bool(value)


def _speed(finished: int, total: int, seconds: float) -> str:
    if not finished:
        return ""
    per_minute = 60 * finished / max(seconds, 1e-9)
    left = round((total - finished) / per_minute)
    return f"{per_minute:.1f} clips/min, {left // 60}:{left % 60:02d} h left"
