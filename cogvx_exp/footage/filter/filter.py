"""`mode=filter`: scores the clips of a manifest and excludes those with bad scores."""

from collections import Counter

from cogvx_exp.config.schema import PrepareJob
from cogvx_exp.console.progress import console, progress
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.data.issues import ClipError, issue_of
from cogvx_exp.footage.filter.decide import decide
from cogvx_exp.footage.filter.scores import VERSION, score_clip
from cogvx_exp.footage.journal import Journal
from cogvx_exp.footage.manifest import locked, read_manifest, write_manifest
from cogvx_exp.footage.rows import ClipRow, clip_rows, manifest_path
from cogvx_exp.footage.stage import raise_on_issues, share


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
        missing = list({self._key(row): row for row in mine if self._key(row) not in done}.values())
        issues = [] if rank else list(self._issues)
        workers = min(job.data.decode_workers, max(len(missing), 1))
        with DecodingPool(workers, job.filter.timeout, "filter.timeout") as pool:
            tasks = ((row.path, row.window, job.split) for row in missing)
            found = progress("Scoring clips", pool.map(score_clip, tasks), len(missing))
            for row, result in zip(missing, found, strict=True):
                if isinstance(result, ClipError):
                    issues.append(issue_of(row.number, row.path, result))
                else:
                    journal.append([(self._key(row), result)])
        report = job.cache_dir / (f"faults-{rank}.csv" if rank else "faults.csv")
        raise_on_issues(issues, job.data, report, ("clip", "could not be scored"))

    def merge(self) -> None:
        """See `Stage`."""
        done = self._journal().load()
        with locked(self._manifest):
            records = read_manifest(self._manifest)
            rows, _ = clip_rows(records, [True] * len(records), self._job.data, self._job.cache_dir)
            keys = {index: self._key(row) for index, row in rows.items()}
            scores = {index: done[key] for index, key in keys.items() if key in done}
            decided = decide(records, scores, self._job.filter)
            if decided != records:
                write_manifest(self._manifest, decided)
        excluded = Counter(_kind(record) for record in decided if record.get("keep") is False)
        why = ", ".join(f"{count} {kind}" for kind, count in excluded.most_common())
        kept = len(decided) - sum(excluded.values())
        console.print(f"{kept} of {len(decided)} clips are kept" + (f"; excluded: {why}" if why else ""))
        console.result(f"Manifest: {self._manifest}")

    def _key(self, row: ClipRow) -> str:
        split = self._job.split
        return row.key({"scores": VERSION, "detector": split.detector, "threshold": split.threshold})

    def _journal(self, rank: int = 0) -> Journal:
        return Journal(self._job.cache_dir / "footage" / "scores", rank)


def _place(row: ClipRow) -> tuple[str, float]:
    """Sorts clips so that those of a video follow each other: opening a long video takes time."""
    return row.path, row.window.start


def _kind(record: dict[str, object]) -> str:
    reason = record.get("reason")
    return str(reason).partition(" ")[0] if reason else "by hand"
