"""`mode=filter`: scores the clips of a manifest and excludes those with bad scores."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import console, progress
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.issues import ClipError, DataIssue, issue_of
from cogvx_exp.footage.filter.decide import decide
from cogvx_exp.footage.filter.scores import VERSION, score_clip
from cogvx_exp.footage.filter.text import VERSION as TEXT_VERSION
from cogvx_exp.footage.filter.text import text_share
from cogvx_exp.footage.journal import Journal
from cogvx_exp.footage.manifest import locked, read_manifest, write_manifest
from cogvx_exp.footage.rows import ClipRow, clip_rows, manifest_path
from cogvx_exp.footage.stage import raise_on_issues, share


@dataclass(frozen=True)
class Measure:
    """Scores that are measured together, and cached apart from others."""

    title: str
    function: Callable[..., dict[str, Any]]
    """Takes a path, a window and `arguments`."""
    arguments: tuple[Any, ...]
    settings: dict[str, Any]
    """What the scores depend on, besides the clip."""

    def key(self, row: ClipRow) -> str:
        """Identifies the scores of a clip."""
        return row.key(self.settings)


class FilterStage:
    """Scores the clips that have no scores yet, and decides about all.

    Raises:
        UserError: the manifest cannot be read.
    """

    def __init__(self, job: PrepareJob):
        self._job, self._manifest = job, manifest_path(job.data)
        records = read_manifest(self._manifest)
        self._rows, self._issues = clip_rows(records, [True] * len(records), job.data, job.cache_dir)

    def work(self, rank: int, world_size: int) -> None:
        """See `Stage`."""
        job, journal = self._job, self._journal(rank)
        done = journal.load()
        mine = share(dict(enumerate(sorted(self._rows.values(), key=_place))), rank, world_size)
        issues = [] if rank else list(self._issues)
        for measure in self._needed():
            issues += self._measure(measure, mine, done, journal)
            mine = [row for row in mine if measure.key(row) in done]
        report = job.cache_dir / (f"faults-{rank}.csv" if rank else "faults.csv")
        raise_on_issues(issues, job.data, report, ("clip", "could not be scored"))

    def _measure(
        self, measure: Measure, rows: list[ClipRow], done: dict[str, Any], journal: Journal
    ) -> list[DataIssue]:
        """Adds what is missing to `done` and to the journal; returns the issues of clips that cannot be measured."""
        job, issues = self._job, []
        missing = list({measure.key(row): row for row in rows if measure.key(row) not in done}.values())
        workers = min(job.data.decode_workers, max(len(missing), 1))
        with DecodingPool(workers, job.filter.timeout, "filter.timeout") as pool:
            tasks = ((row.path, row.window, *measure.arguments) for row in missing)
            found = progress(measure.title, pool.map(measure.function, tasks), len(missing))
            for row, result in zip(missing, found, strict=True):
                if isinstance(result, ClipError):
                    issues.append(issue_of(row.number, row.path, result))
                else:
                    journal.append([(measure.key(row), result)])
                    done[measure.key(row)] = result
        return issues

    def merge(self) -> None:
        """See `Stage`."""
        done = self._journal().load()
        with locked(self._manifest):
            records = read_manifest(self._manifest)
            rows, _ = clip_rows(records, [True] * len(records), self._job.data, self._job.cache_dir)
            scores = {index: self._scores_of(row, done) for index, row in rows.items()}
            known = {index: found for index, found in scores.items() if found}
            decided = decide(records, known, self._job.filter)
            if decided != records:
                write_manifest(self._manifest, decided)
        excluded = Counter(_kind(record) for record in decided if record.get("keep") is False)
        why = ", ".join(f"{count} {kind}" for kind, count in excluded.most_common())
        kept = len(decided) - sum(excluded.values())
        console.print(f"{kept} of {len(decided)} clips are kept" + (f"; excluded: {why}" if why else ""))
        console.result(f"Manifest: {self._manifest}")

    def _scores_of(self, row: ClipRow, done: dict[str, Any]) -> dict[str, Any]:
        """All scores of a clip, also those without a limit; empty if one that has a limit is missing."""
        if any(measure.key(row) not in done for measure in self._needed()):
            return {}
        return {name: score for measure in self._measures() for name, score in done.get(measure.key(row), {}).items()}

    def _needed(self) -> list[Measure]:
        # Text needs an extra package and much time, so it is not measured unless asked for.
        return self._measures()[: 1 if self._job.filter.text is None else 2]

    def _measures(self) -> list[Measure]:
        split = self._job.split
        detector = {"scores": VERSION, "detector": split.detector, "threshold": split.threshold}
        return [
            Measure("Scoring clips", score_clip, (split,), detector),
            Measure("Looking for text", text_share, (), {"text": TEXT_VERSION}),
        ]

    def _journal(self, rank: int = 0) -> Journal:
        return Journal(self._job.cache_dir / "footage" / "scores", rank)


def _place(row: ClipRow) -> tuple[str, float]:
    """Sorts clips so that those of a video follow each other: opening a long video takes time."""
    return row.path, row.window.start


def _kind(record: dict[str, object]) -> str:
    reason = record.get("reason")
    return str(reason).partition(" ")[0] if reason else "by hand"
