"""The page that compares runs, in a real browser, and its figures elsewhere."""

import csv
import importlib
import platform
import sys
from pathlib import Path

import pytest

from cogvx_exp.core.files import write_json
from cogvx_exp.report import main
from cogvx_exp.reporting import metrics_frame, runs_frame
from cogvx_exp.runs.run_folder import RunFolder, write_status
from tests.pages import CHROMIUM, PROMPTS, browser, write_clip, write_run

RATES = ("0.001", "0.01", "0.1")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory, make_job) -> Path:
    """Three finished runs, one that failed before it had a configuration, one whose process disappeared."""
    folder = tmp_path_factory.mktemp("sweep")
    video = write_clip(folder / "clip" / "clip.mp4")
    for number, rate in enumerate(RATES):
        overrides = [f"optim.lr={rate}", "steps=300"]
        write_run(folder / str(number), make_job(*overrides), overrides, video)
    rows = [{"part": "attention", "ms": 6.0}, {"part": "step", "ms": 9.25}]
    about = {"title": "Step 5: 9.2 ms", "columns": {"part": "", "ms": "ms"}, "rows": rows}
    write_json(RunFolder(folder / "0").profile / "parts.json", about)
    failed, lost = RunFolder(folder / "3"), RunFolder(folder / "4")
    failed.path.mkdir()
    write_status(failed, "failed", message="optim.lr=-1 </script><b>must</b> be greater", overrides=["optim.lr=-1"])
    lost.start(make_job("optim.lr=0.5"), ["optim.lr=0.5"])
    write_status(lost, "running", pid=2**22 + 1, host=platform.node())
    return folder


def test_the_same_figures_as_csv_and_as_a_frame(sweep: Path, tmp_path: Path, capsys) -> None:
    assert main([str(sweep), "--output", str(tmp_path)]) == 0
    assert "5 runs: open " in capsys.readouterr().out
    with (tmp_path / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished"] * 3 + ["failed", "lost"]
    assert set(rows[0]) >= {"optim.lr", "held_out_loss", "best_held_out_loss", "seconds"}
    assert rows[0]["last_step"] == "300"
    assert "optim.weight_decay" not in rows[0], "it is the same everywhere"
    frame = runs_frame(sweep)
    assert list(frame["optim.lr"][:3]) == [0.001, 0.01, 0.1]
    assert frame["held_out_loss"][0] == pytest.approx(float(rows[0]["held_out_loss"]))
    metrics = metrics_frame(sweep / "0", sweep / "1")
    assert len(metrics) == 600
    assert metrics.groupby("run").size().to_dict() == {"0": 300, "1": 300}


def test_folders_without_runs_are_named(tmp_path: Path, capsys) -> None:
    assert main([str(tmp_path)]) == 2
    assert f"{tmp_path} contains no run" in capsys.readouterr().err
    assert main([str(tmp_path / "no")]) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_in_a_browser(sweep: Path, tmp_path: Path) -> None:
    """Loads without a complaint, sorts, hides a run, and plays the videos in step. The videos are copied along."""
    assert main([str(sweep), "--output", str(tmp_path / "moved")]) == 0
    (tmp_path / "moved").rename(tmp_path / "page")
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 1200, "height": 1600})
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if "file:" not in request.url else None)
        page.goto((tmp_path / "page" / "index.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        complaints = [text for text in complaints if not text.startswith(("data:", "blob:"))]

        names = page.locator("#table .tabulator-row .tabulator-cell:first-child")
        assert [name.strip() for name in names.all_inner_texts()] == ["0", "1", "2", "3", "4"]
        page.locator(".tabulator-col-title", has_text="held-out loss").click()
        falling = names.all_inner_texts()
        page.locator(".tabulator-col-title", has_text="held-out loss").click()
        rising = names.all_inner_texts()
        assert [name.strip() for name in falling[:3]] == [name.strip() for name in rising[:3]][::-1]

        assert "must</b> be greater" in page.locator("#failures").inner_text()
        assert "process exited without an error message" in page.locator("#failures").inner_text()

        assert page.locator("#profiles summary").all_inner_texts() == ["0: lr 0.001. Step 5: 9.2 ms"]
        assert page.locator("#profiles td").all_text_contents() == ["attention", "6.0", "step", "9.3"]

        assert page.evaluate("plot.series.length - 1") == 3
        page.get_by_label("show 1", exact=True).click()
        assert page.evaluate("plot.series.length - 1") == 2
        page.select_option("#metric", "held_out_loss")
        assert page.evaluate("plot.data[0]") == [100, 200, 300]

        assert page.locator("#grid h3").all_inner_texts() == list(PROMPTS)
        labels = page.locator("#grid .card p").all_inner_texts()
        assert labels[:3] == ["base model", "0: lr 0.001, step 300", "2: lr 0.1, step 300"]
        page.locator("#videos").scroll_into_view_if_needed()
        page.wait_for_function("[...document.querySelectorAll('video')].every((video) => video.readyState >= 2)")
        moments = []
        for _ in range(5):
            page.wait_for_timeout(200)
            moments.append(page.evaluate("[...document.querySelectorAll('video')].map((video) => video.currentTime)"))
        assert len({times[0] for times in moments}) > 1, "they play"
        assert all(max(times) - min(times) < 0.3 for times in moments), moments
        assert complaints == []


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_videos_out_of_view_are_not_loaded(tmp_path: Path, make_job) -> None:
    video = write_clip(tmp_path / "clip.mp4")
    job = make_job()
    for number in range(40):
        write_run(tmp_path / "sweep" / str(number), job, [f"seed={number}"], video, steps=10)
    assert main([str(tmp_path / "sweep")]) == 0
    with browser() as chromium:
        page = chromium.new_page(viewport={"width": 390, "height": 844})
        page.goto((tmp_path / "sweep" / "report" / "index.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        page.locator("#grid").scroll_into_view_if_needed()
        page.wait_for_timeout(500)
        loaded = page.evaluate("[...document.querySelectorAll('video')].map((video) => Boolean(video.src))")
        assert len(loaded) == 82
        assert 0 < sum(loaded) < 20
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, "nothing is wider than a phone"


def test_the_old_name_of_the_reports_still_works() -> None:
    sys.modules.pop("cogvx_exp.comparison", None)
    with pytest.warns(DeprecationWarning, match="now cogvx_exp.reporting"):
        old = importlib.import_module("cogvx_exp.comparison")
    assert (old.runs_frame, old.metrics_frame) == (runs_frame, metrics_frame)
