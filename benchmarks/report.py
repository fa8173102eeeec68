"""How long a page of many runs takes to open, and how smoothly it scrolls, in a headless Chromium.

python benchmarks/report.py --runs 200
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hydra import compose, initialize_config_dir

from cogvx_exp.config.paths import conf_dir
from cogvx_exp.config.schema import TrainJob
from cogvx_exp.config.typed import typed
from cogvx_exp.report import main as report
from tests.pages import browser, write_clip, write_run

SCROLL = """
async () => {
  const times = [];
  let last = performance.now();
  for (let frame = 0; frame < 120; frame++) {
    scrollBy(0, 60);
    await new Promise(requestAnimationFrame);
    times.push(performance.now() - last);
    last = performance.now();
  }
  return times.sort((a, b) => a - b);
}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sweep, video = Path(folder) / "sweep", write_clip(Path(folder) / "clip.mp4")
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            for number in range(arguments.runs):
                overrides = [f"optim.lr={1e-4 * (number + 1)}", f"seed={number}"]
                write_run(
                    sweep / str(number), typed(compose("train", overrides), TrainJob), overrides, video, arguments.steps
                )
        started = time.monotonic()
        report([str(sweep)])
        print(f"written in {time.monotonic() - started:.1f} s")
        with browser() as chromium:
            page = chromium.new_page(viewport={"width": 1280, "height": 800})
            started = time.monotonic()
            page.goto((sweep / "report" / "index.html").as_uri())
            page.wait_for_selector("body[data-ready]")
            videos = page.evaluate("document.querySelectorAll('video').length")
            print(f"open in {time.monotonic() - started:.2f} s: {arguments.runs} runs, {videos} videos on the page")
            page.locator("#grid").scroll_into_view_if_needed()
            times = page.evaluate(SCROLL)
            print(f"a frame while scrolling: {times[60]:.0f} ms in the middle, {times[113]:.0f} ms for 95 of 100")


if __name__ == "__main__":
    main()
