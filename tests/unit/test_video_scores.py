"""The built-in scores: what they measure, what they ask for, and what happens if it is not there."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.degraded import DEGRADATIONS, Degradation, known_clips, measured, scene
from cogvx_exp.config.rules import scores as rules
from cogvx_exp.config.rules.jobs import check_train, train_notes
from cogvx_exp.config.schema import Score, TrainJob
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.control.recipes import Recipe
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.data.decoding import DecodingPool
from cogvx_exp.evaluation.sampling import VideoRequest
from cogvx_exp.evaluation.scores import read_clips as reading
from cogvx_exp.evaluation.scores.base import build_scores, score_video
from cogvx_exp.evaluation.scores.given import condition
from cogvx_exp.evaluation.scores.training_clips import TrainingClips, copying
from cogvx_exp.evaluation.scores.video import ScoredVideo, absent_inputs, condition_of
from cogvx_exp.latents.context import PipelineContext
from tests.conftest import MakeJob

CLIPS_KNOWN = known_clips()


@pytest.fixture(scope="module")
def settings(make_job: MakeJob) -> dict[str, Score]:
    return make_job().validation.scores  # type: ignore[union-attr]


@pytest.mark.parametrize("degradation", DEGRADATIONS, ids=lambda degradation: degradation.name)
def test_scores_follow_each_step_of_a_degradation(degradation: Degradation, settings: dict[str, Score]) -> None:
    names = (*degradation.rises, *degradation.falls)
    steps = measured(degradation, build_scores({name: settings[name] for name in names}, "scores"), CLIPS_KNOWN)
    for name in names:
        values = [step[name] if name in degradation.rises else -step[name] for step in steps]
        assert values == sorted(set(values)), f"{name}: {values}"


def test_every_score_without_weights_is_on_and_validated(settings: dict[str, Score]) -> None:
    on = {name for name, score in settings.items() if score.enabled == "auto"}
    assert on == {name for degradation in DEGRADATIONS for name in (*degradation.rises, *degradation.falls)}
    assert settings.keys() - on == {"clip", "aesthetics"}
    for degradation in DEGRADATIONS:
        for names, better in ((degradation.rises, "higher"), (degradation.falls, "lower")):
            # A spoiled video must not look better; a copy of a training clip is spoiled, too.
            wrong = [name for name in names if settings[name].better == better and degradation.name[:6] != "frames"]
            assert not wrong


def asking(frames: np.ndarray, fps: float, prompt: str, scale: float = 1.0) -> float:
    return len(frames) * fps * len(prompt) * scale


def with_own_fps(frames: np.ndarray, fps: float) -> float:
    return fps


class Counting:
    """Counts its calls, which shows that it is built once."""

    def __init__(self, start: int):
        self.count = start

    def __call__(self, frames: np.ndarray, image: np.ndarray) -> int:
        self.count += len(image)
        return self.count


def test_a_score_gets_what_its_parameters_name() -> None:
    scores = build_scores(
        {
            "function": Score(target=f"{__name__}.asking", kwargs={"scale": 2}),
            "own": Score(target=f"{__name__}.with_own_fps", kwargs={"fps": 4}),
            "object": Score(target=f"{__name__}.Counting", kwargs={"start": 5}),
        },
        "scores",
    )
    video = ScoredVideo(np.zeros((3, 8, 8, 3), np.uint8), "abcd", 8.0, image=np.zeros((8, 8, 3), np.uint8))
    assert score_video(scores, video) == {"function": 3 * 8 * 4 * 2, "own": 4, "object": 13}
    assert score_video(scores, video)["object"] == 21
    with pytest.raises(UserError, match=r"scores\.a: .*Exception is a class without __call__"):
        build_scores({"a": Score(target="builtins.Exception")}, "scores")
    with pytest.raises(UserError, match=r"scores\.a: .*Counting is called as Counting\(begin=5\), but .*'start'"):
        build_scores({"a": Score(target=f"{__name__}.Counting", kwargs={"begin": 5})}, "scores")


def test_what_is_absent_is_left_out_or_refused(settings: dict[str, Score], capsys: pytest.CaptureFixture[str]) -> None:
    wanted = {name: settings[name] for name in ("sharpness", "first_frame", "condition", "copying")}
    absent = {"image": "an image", "clips": "frames of clips"}
    assert build_scores(wanted, "validation.scores", absent, {"clips"}).keys() == {"sharpness", "condition"}
    notes = capsys.readouterr().out
    assert "scores left out: copying; they need frames of clips" in notes
    assert "first_frame" not in notes
    for enabled in (True, False):
        explicit = {"first_frame": settings["first_frame"].model_copy(update={"enabled": enabled})}
        if enabled:
            with pytest.raises(UserError, match=r"first_frame needs an image; set validation\.scores\.first_frame="):
                build_scores(explicit, "validation.scores", absent)
        else:
            assert build_scores(explicit, "validation.scores") == {}


def test_which_inputs_videos_lack() -> None:
    request = VideoRequest("a", "", 0, 9, 32, 32, 8, 1, 1.0, False)
    plain, image, canny = request, _with(request, image="a.png"), _with(request, control="canny of a.mp4")
    assert absent_inputs([plain], "no clips").keys() == {"clips", "image", "condition"}
    assert absent_inputs([image], None).keys() == {"condition"}
    assert absent_inputs([image, plain], None).keys() == {"image", "condition"}
    assert absent_inputs([canny], None).keys() == {"image"}
    assert "not one from a file" in absent_inputs([canny, _with(request, control="depth.mp4")], None)["condition"]


def _with(request: VideoRequest, **changes: Any) -> VideoRequest:
    return VideoRequest(**(vars(request) | changes))


@pytest.mark.parametrize("name", ["prefix count=5 of a.mp4", "a.mp4 hidden by mask.mp4"])
def test_only_what_a_condition_shows_counts(name: str) -> None:
    clip = scene(0) // 2  # darker than hidden pixels
    shown = condition_of(name, Recipe("prefix", (("count", 5),)).apply(clip))
    assert shown is not None
    other = clip.copy()
    other[5:] = 0
    assert condition(other, shown) == pytest.approx(1)
    assert condition(127 - clip, shown) == pytest.approx(-1, abs=1e-3), "hidden pixels are not compared"


def test_a_mirrored_copy_counts_if_clips_are_flipped(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are read once, from the videos, and from the cache afterwards."""
    found = {}
    for flip in (0.5, 0.0):
        job = make_job(f"data.random_flip={flip}", "data.clips=4")
        found[flip] = _read(job)
        monkeypatch.setattr(reading, "features_of", None)
    dataset = load_dataset(job.data, job.cache_dir)
    assert len(found[0.0].statistics) == len(found[0.0].thumbnails) == len(dataset.clips) == 4
    frames = _frames(dataset.clips[0])
    assert copying(frames, found[0.0]) == pytest.approx(1, abs=1e-3)
    assert copying(frames[:, :, ::-1], found[0.5]) > 0.98 > copying(frames[:, :, ::-1], found[0.0])
    monkeypatch.setattr(reading, "MOST", 3)
    assert len(_read(job).statistics) == 3


def test_clips_that_may_hang_a_decoder_are_read_in_workers(make_job: MakeJob, tmp_path: Path, monkeypatch) -> None:
    workers = []

    class Pool(DecodingPool):
        def __init__(self, count: int, timeout: float):
            workers.append(count)
            super().__init__(count, timeout)

    monkeypatch.setattr(reading, "DecodingPool", Pool)
    job = make_job("data.encode=online", "data.clips=3", "data.decode_workers=1")
    in_worker = _read(job, tmp_path)
    assert workers == [1]
    here = _read(make_job("data.clips=3"))
    assert workers == [1], "they were decoded before"
    assert np.array_equal(in_worker.thumbnails, here.thumbnails)


def _read(job: TrainJob, cache_dir: Path | None = None) -> TrainingClips:
    context = PipelineContext(Path(), None, job.memory, cache_dir or job.cache_dir, None)  # type: ignore[arg-type]
    found = reading.read_clips(load_dataset(job.data, job.cache_dir).clips, job.data, context)
    assert found
    return found


def _frames(clip: Any) -> np.ndarray:
    from cogvx_exp.data.decoding import read_clip

    return read_clip(*reading._task(clip, SimpleNamespace(reshape="center", **CHOICE)))


CHOICE = {"skip_frames_start": 0, "skip_frames_end": 0, "fps": None}


def test_goals_must_be_measured(make_job: MakeJob) -> None:
    job = make_job()

    def problems(keep_best: bool | str = True, objective: str = "loss", **validation: Any) -> str:
        changes = {
            "checkpoint": job.checkpoint.model_copy(update={"keep_best": keep_best}),
            "sweep": job.sweep.model_copy(update={"objective": objective}),
            "validation": job.validation.model_copy(update=validation),
        }
        return "; ".join(f"{issue.setting} {issue.problem}" for issue in check_train(job.model_copy(update=changes)))

    assert "keep_best=score.speed validation.scores has no speed; it has: sharp" in problems("score.speed", every=2)
    assert "; " not in problems("score.speed", every=2).replace("; it has", "")
    assert "set validation.every" in problems("score.copying")
    assert "=score.clip is not computed; add validation.scores.clip=true" in problems(objective="score.clip")
    assert "set validation.scores.motion.better=higher or" in problems(objective="score.motion")
    lower = {"motion": Score(target="a.b", better="lower")}
    assert not problems("score.motion", "score.motion", every=2, scores=lower)
    assert not problems(keep_best=False, scores={})
    without = make_job("validation=none")
    compared = without.model_copy(update={"sweep": job.sweep.model_copy(update={"objective": "score.copying"})})
    assert [issue.problem[:15] for issue in check_train(compared)] == ["validation=none"]


def test_all_are_switched_off_by_null_and_one_by_name(capsys: pytest.CaptureFixture[str], make_job: MakeJob) -> None:
    from cogvx_exp.train import main

    assert make_job("validation.scores=null").validation.scores == {}  # type: ignore[union-attr]
    assert main(["validation.scores={}", "--cfg", "job"]) == 2
    assert "write validation.scores=null" in capsys.readouterr().err
    assert main(["validation.scores.clip=true", "validation.scores.static=false", "--cfg", "job"]) == 0
    printed = capsys.readouterr().out
    assert "TextSimilarity\n      enabled: true" in printed
    assert "picture.static\n      enabled: false" in printed


def test_without_opencv_two_are_left_out_with_a_note(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job()
    assert not [note for note in train_notes(job) if "scores" in note]
    monkeypatch.setattr(rules, "find_spec", lambda name: None)
    assert "scores left out: motion, flicker; they need OpenCV: pip install" in " ".join(train_notes(job))
    assert build_scores(job.validation.scores, "scores").keys() >= {"sharpness"}  # type: ignore[union-attr]
    assert "motion" not in build_scores(job.validation.scores, "scores")  # type: ignore[union-attr]
    scores = job.validation.scores | {"motion": Score(target="a.b", package="cv2")}  # type: ignore[union-attr]
    validation = job.validation.model_copy(update={"scores": scores})
    (issue,) = check_train(job.model_copy(update={"validation": validation}))
    assert (issue.setting, issue.problem[:12]) == ("validation.scores.motion.enabled=true", "needs OpenCV")
    # What checkpoints are compared by must not be left out silently.
    compared = job.sweep.model_copy(update={"objective": "score.flicker"})
    (issue,) = check_train(job.model_copy(update={"sweep": compared}))
    assert issue.setting == "validation.scores.flicker.enabled=true"
