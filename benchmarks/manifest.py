"""How long a large dataset takes before the first batch: `python benchmarks/manifest.py`.

Makes manifests of 10^4, 10^5 and 10^6 clips whose videos have been probed before, each in a process of
its own, and prints seconds and memory for loading the index, assigning buckets and planning an epoch.
"""

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import Data, TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.data.dataset import assign_buckets
from cogvx_exp.data.forms.sources import read_source
from cogvx_exp.data.index.files import FileIndex, Stamp
from cogvx_exp.loading.sampler import BatchStream
from cogvx_exp.media.video import VideoInfo

SIZES = ((480, 720), (720, 1280), (1080, 1920), (1920, 1080), (1080, 1080))


def synthetic(count: int, root: Path) -> list[Stamp]:
    """A manifest of `count` rows, and an index that knows its videos."""
    chance = np.random.default_rng(0)
    names = [f"videos/{number // 1000:04d}/{number:07d}.mp4" for number in range(count)]
    (root / "videos.txt").write_text("\n".join(names))
    (root / "prompt.txt").write_text("\n".join(f"clip {number} shows something that moves" for number in range(count)))
    stamps = [(str(root / name), 1_000_000 + number, number, number) for number, name in enumerate(names)]
    frames, sizes = chance.integers(49, 400, count), chance.integers(len(SIZES), size=count)
    infos = (VideoInfo(int(f), *SIZES[s], 25.0, int(f) / 25) for f, s in zip(frames, sizes, strict=True))
    with FileIndex(root / "index.sqlite") as index:
        index.add_infos(zip(stamps, infos, strict=True))
    return stamps


def settings(root: Path) -> Data:
    """Nine sizes and two lengths."""
    overrides = ["model=5b", "data=files", f"data.root={root}", "data.allow_outside_root=true"]
    overrides += [
        "data.height_buckets=[480,720,1280]",
        "data.width_buckets=[480,720,1280]",
        "data.frame_buckets=[25,49]",
    ]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides)
    return typed(config, TrainJob).data


def measure(count: int) -> tuple[list[float], float]:
    """Seconds of each stage, and the peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        maker = multiprocessing.get_context("spawn").Pool(1)
        stamps = maker.apply(synthetic, (count, root))
        maker.close()
        maker.join()
        data = settings(root)
        times = [time.perf_counter()]
        rows, _, _ = read_source(data.all_sources()[0], data.allow_outside_root)
        times.append(time.perf_counter())
        with FileIndex(root / "index.sqlite") as index:
            infos = index.infos(stamps)
        times.append(time.perf_counter())
        clips, issues = assign_buckets(rows, infos, data, 0)
        assert (len(clips), issues) == (count, [])
        times.append(time.perf_counter())
        buckets = {bucket: number for number, bucket in enumerate(sorted({clip.bucket for clip in clips}))}
        numbers = np.array([buckets[clip.bucket] for clip in clips])
        plan = BatchStream(numbers, batch_size=4, seed=0, drop_remainder=False).epoch(0)
        assert len(np.unique(plan)) == count
        times.append(time.perf_counter())
    return list(np.diff(times)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Prints the table."""
    print(f"{'clips':>9} {'manifest':>9} {'index':>9} {'buckets':>9} {'epoch':>9} {'together':>9} {'memory':>9}")
    for count in (10**4, 10**5, 10**6):
        with multiprocessing.get_context("spawn").Pool(1) as alone:
            seconds, memory = alone.apply_async(_measure, (count,)).get()
        cells = " ".join(f"{value:7.2f} s" for value in [*seconds, sum(seconds)])
        print(f"{count:>9,} {cells} {memory:5.2f} GiB")


def _measure(count: int) -> tuple[list[float], float]:
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # it starts a child
    return measure(count)


if __name__ == "__main__":
    main()
