"""The table of a sweep's jobs: live on a terminal, otherwise one line per change."""

import atexit
import threading
from pathlib import Path

from rich.live import Live
from rich.table import Table
from rich.text import Text

from cogvx_exp.console.progress import console
from cogvx_exp.runs.sweep_folder import SweepJob, job_folders, read_sweep_job
from cogvx_exp.sweep.labels import labels

SECONDS_BETWEEN_LOOKS = 1.0
STYLES = {"running": "cyan", "finished": "green", "failed": "red", "lost": "red", "stopped": "yellow", "waiting": "dim"}


class SweepTable:
    """Shows the jobs of a sweep from their folders, independent of the launcher.

    Args:
        folder: the sweep's folder.
        planned: overrides of each job, if known in advance.
    """

    def __init__(self, folder: Path, planned: list[list[str]]):
        self._folder, self._planned = folder, planned
        self._said: dict[int, str] = {}
        self._end = threading.Event()
        self._live = Live(console=console, auto_refresh=False) if console.shows_bars else None
        # From the folders, in a thread: launchers run jobs in other processes or on other machines and report nothing.
        self._thread = threading.Thread(target=self._watch, name="sweep table", daemon=True)

    def start(self) -> None:
        """Starts watching the jobs."""
        if self._live:
            self._live.start()
            atexit.register(self._live.stop)  # restores the cursor after Ctrl-C
        self._thread.start()

    def finish(self) -> list[SweepJob]:
        """Shows the final state of the jobs, and returns them."""
        # The last look comes after the thread, so that no state between two looks is missed.
        self._end.set()
        self._thread.join()
        jobs = self._look()
        if self._live:
            self._live.stop()
        else:
            console.print(jobs_table(jobs))
        if console.only_results:
            finished = sum(job.status == "finished" for job in jobs)
            console.result(f"{finished} of {len(jobs)} jobs have finished: {self._folder}")
        return jobs

    def _watch(self) -> None:
        while not self._end.wait(SECONDS_BETWEEN_LOOKS):
            self._look()

    def _look(self) -> list[SweepJob]:
        started = {int(path.name): read_sweep_job(path) for path in job_folders(self._folder)}
        waiting = {number: SweepJob(number, texts, "waiting") for number, texts in enumerate(self._planned)}
        jobs = [job for _, job in sorted((waiting | started).items())]
        if self._live:
            self._live.update(jobs_table(jobs), refresh=True)
        else:
            self._print_changes(jobs)
        return jobs

    def _print_changes(self, jobs: list[SweepJob]) -> None:
        for job, label in zip(jobs, labels([job.overrides for job in jobs]), strict=True):
            if job.status not in ("waiting", self._said.get(job.number)):
                self._said[job.number] = job.status
                results = {"loss": job.loss} if job.status == "finished" else {}
                if job.score is not None:
                    results[job.goal] = job.score
                shown = "".join(f", {name} {value:.4g}" for name, value in results.items() if value is not None)
                text = f"Job {job.number} {job.status}{shown}: {label}"
                say = console.print if job.status in ("running", "finished") else console.warn
                say(f"{text}; {job.message}" if job.message else text, soft_wrap=True)


def jobs_table(jobs: list[SweepJob]) -> Table:
    """One row per job, with only the settings that differ."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("job")
    table.add_column("settings", overflow="fold")  # truncated, they would look alike
    table.add_column("status", no_wrap=True)
    goals = list(dict.fromkeys(job.goal for job in jobs if job.goal != "loss"))
    for name in ("step", "loss", *goals, "time"):
        table.add_column(name, justify="right")
    table.add_column("")
    for job, label in zip(jobs, labels([job.overrides for job in jobs]), strict=True):
        step = "" if job.step is None else f"{job.step}/{job.steps}" if job.steps else str(job.step)
        table.add_row(
            str(job.number),
            label,
            Text(job.status, style=STYLES[job.status]),
            step,
            "" if job.loss is None else f"{job.loss:.4f}",
            *("" if job.score is None or job.goal != goal else f"{job.score:.4g}" for goal in goals),
            "" if job.seconds is None else _duration(job.seconds),
            job.message.partition("\n")[0][:80],
        )
    return table


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
