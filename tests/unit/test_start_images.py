"""The image that a video starts from: training's first frame, validation and generate have the same pixels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.video_processor import VideoProcessor
from PIL import Image

from cogvx_exp.config.rules.jobs import check_train
from cogvx_exp.config.schema import Validation
from cogvx_exp.core.errors import UserError
from cogvx_exp.data.buckets import Bucket
from cogvx_exp.data.dataset import load_dataset
from cogvx_exp.data.decoding import read_clip
from cogvx_exp.data.frames import choose_frames
from cogvx_exp.data.resize import ResizeSpec
from cogvx_exp.data.start_image import listed_images, open_image, start_image
from cogvx_exp.evaluation.adapter import Adapter, with_base_model
from cogvx_exp.evaluation.requests import start_images
from cogvx_exp.evaluation.sampling import Given, Sampler, VideoRequest, video_requests
from cogvx_exp.evaluation.validation import Validator
from cogvx_exp.latents.encode import to_pixels
from cogvx_exp.launch.early_checks import check_early
from cogvx_exp.media.video import open_video
from tests.conftest import MakeJob
from tests.entry import generate, train
from tests.zoo import draw_frames, ffmpeg

BUCKET = Bucket(9, 32, 48)
"""3:2."""
WIDE = (90, 160)
"""Height and width of a 16:9 picture."""
I2V = ["model=tiny-5b-i2v", "task=i2v"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 16:9 video whose columns and frames differ, and its caption."""
    folder = tmp_path_factory.mktemp("clips")
    ramp = np.linspace(0, 255, WIDE[1]).astype(np.uint8)
    draw_frames(folder / "frames", 12, *WIDE)
    for number, path in enumerate(sorted((folder / "frames").iterdir())):
        picture = np.array(Image.open(path))
        picture[WIDE[0] // 2 :, :, 2] = np.roll(ramp, 7 * number)
        Image.fromarray(picture).save(path)
    ffmpeg("-framerate", "8", "-i", folder / "frames/%03d.png", "-c:v", "libx264", "-crf", "4", folder / "wide.mp4")
    (folder / "wide.txt").write_text("a wide picture")
    return folder


class Recorder:
    """In the place of the diffusers pipeline: keeps what it is given."""

    vae_scale_factor_temporal = 4

    def __call__(self, **given: object) -> SimpleNamespace:
        self.given = given
        return SimpleNamespace(frames=torch.zeros(1, 3, 4, 4, 6))


def pixels_of(request: VideoRequest) -> torch.Tensor:
    """What the diffusers pipeline makes of the request's image before it goes to the VAE: (1, 3, height, width)."""
    sampler = object.__new__(Sampler)
    sampler.pipeline = Recorder()
    sampler.embeds = dict.fromkeys((request.prompt, request.negative_prompt), torch.zeros(2, 3))
    sampler.images = {}
    sampler.compute = SimpleNamespace(device="cpu", dtype=torch.float32, autocast=lambda: torch.no_grad())
    sampler.sample_latents(request)
    given = sampler.pipeline.given
    processor = VideoProcessor(vae_scale_factor=8)
    return processor.preprocess(given["image"], height=given["height"], width=given["width"])


@pytest.mark.parametrize(("reshape", "skip"), [("center", 0), ("center", 2), ("resize", 0), ("pad", 0), ("random", 0)])
def test_training_validation_and_generate_see_the_same_pixels(
    make_job: MakeJob, clips: Path, tmp_path: Path, reshape: str, skip: int
) -> None:
    data = [f"data.root={clips}", "data=folder", f"data.skip_frames_start={skip}", f"data.reshape={reshape}"]
    encode = ["data.encode=online"] if reshape == "random" else []
    prompts = ["validation.prompts=[a square]", "validation.negative_prompt=''"]
    job = make_job(*I2V, *data, *encode, *prompts)
    (clip,) = load_dataset(job.data, tmp_path / "cache").clips
    assert clip.bucket == BUCKET
    fit = ResizeSpec("center" if reshape == "random" else reshape)
    frames = read_clip(clip.row.path, choose_frames(job.data, BUCKET.num_frames), BUCKET, fit)
    trained = to_pixels([frames], torch.device("cpu"))[0, :, 0]

    assert isinstance(job.validation, Validation)
    images = start_images(job, [clip], 1)
    (request,) = video_requests(job.validation, [""], 1, [Given(images[0])], job.data.reshape)
    torch.testing.assert_close(pixels_of(request)[0], trained, rtol=0, atol=1e-6)

    first = next(iter(open_video(clip.row.path).frames([skip])))
    Image.fromarray(first).save(tmp_path / "first.png")
    (request,) = video_requests(job.validation, [""], 1, [Given(str(tmp_path / "first.png"))], reshape)
    torch.testing.assert_close(pixels_of(request)[0], trained, rtol=0, atol=1e-6)
    if reshape != "resize":
        stretched = video_requests(job.validation, [""], 1, [Given(images[0])], "resize")[0]
        assert (pixels_of(stretched)[0] - trained).abs().max() > 0.1, "the measure would notice a stretched image"


def test_generate_brings_images_to_size_as_the_run_did() -> None:
    settings = SimpleNamespace(reshape="center", model_copy=lambda update: SimpleNamespace(**update))
    job = SimpleNamespace(generate=settings, model_copy=lambda update: SimpleNamespace(**update))
    adapters = [Adapter(Path("lora"), None, "pad")]
    assert with_base_model(job, adapters, []).generate.reshape == "pad"  # type: ignore[arg-type]
    assert with_base_model(job, adapters, ["generate.reshape=center"]).generate.reshape == "center"  # type: ignore[arg-type]
    random = [Adapter(Path("lora"), None, "random")]
    assert with_base_model(job, random, []).generate.reshape == "center"  # type: ignore[arg-type]


def test_every_kind_of_image_is_read_as_it_is_seen(tmp_path: Path) -> None:
    grey = np.tile(np.linspace(0, 255, 48).astype(np.uint8), (32, 1))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    Image.fromarray(grey.astype(np.int32) * 257).save(tmp_path / "deep.tiff")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    wanted = np.stack([grey] * 3, -1)
    for name in ("grey.png", "deep.png", "deep.tiff", "palette.png"):
        assert np.array_equal(np.asarray(open_image(str(tmp_path / name))), wanted), name

    turned = Image.fromarray(wanted).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right to be upright
    turned.save(tmp_path / "phone.png", exif=exif)
    assert np.array_equal(np.asarray(open_image(str(tmp_path / "phone.png"))), wanted)

    half = np.dstack([np.full_like(wanted, 200), np.where(np.arange(48) < 24, 255, 0).repeat(32).reshape(48, 32).T])
    image = Image.fromarray(half.astype(np.uint8))
    image.save(tmp_path / "alpha.png")
    image.convert("LA").save(tmp_path / "alpha-grey.png")
    image.quantize(8).save(tmp_path / "alpha-palette.png")
    for name in ("alpha.png", "alpha-grey.png", "alpha-palette.png"):
        pixels = np.asarray(open_image(str(tmp_path / name)))
        assert pixels[:, :24].min() == 200, name
        assert pixels[:, 24:].max() == 0, f"{name}: black where it is transparent"
    assert start_image(str(tmp_path / "alpha.png"), Bucket(9, 16, 16), "center").size == (16, 16)


def test_images_that_cannot_be_used_are_named(tmp_path: Path, clips: Path) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.ones((8, 8), dtype=np.float32)).save(tmp_path / "float.tiff")
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:1000])
    for source, words in {
        "nowhere.png": "cannot be opened: it does not exist",
        "text.png": "cannot identify image file",
        "cut.png": "truncated",
        "float.tiff": "save it with 8 or 16 bits",
        "": "Is a directory",
    }.items():
        with pytest.raises(UserError, match=words) as raised:
            open_image(str(tmp_path / source))
        assert str(tmp_path / source) in str(raised.value)
    with pytest.raises(UserError, match="cannot be opened: the video"):
        open_image(f"first frame of {tmp_path}/text.png")
    assert open_image(f"frame 3 of {clips}/wide.mp4").size == WIDE[::-1]
    with pytest.raises(UserError, match=r"generate\.images=.*list\.txt does not exist"):
        listed_images(str(tmp_path / "list.txt"), ":::", "generate.images")
    (tmp_path / "list.txt").write_text("a.png\n\nb.png\n")
    assert listed_images(str(tmp_path / "list.txt"), ":::", "generate.images").sources == ["a.png", "b.png"]


@pytest.mark.parametrize("baseline", ["true", "false"])
def test_a_run_names_missing_files_before_it_begins(
    in_tmp: Path, shared_cache: Path, baseline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [*I2V, "run_dir=run", f"cache_dir={shared_cache}", "steps=1", f"validation.baseline={baseline}"]
    assert train([*settings, "validation.images=nowhere.png"]) == 2
    assert "validation.images: the image nowhere.png cannot be opened" in capsys.readouterr().err
    assert train([*settings, "method.init_from=nowhere"]) == 2
    assert "method.init_from=nowhere does not exist" in capsys.readouterr().err
    assert not Path("run").exists()


def test_as_many_images_as_prompts_and_only_where_they_are_used(make_job: MakeJob, tmp_path: Path) -> None:
    Image.new("RGB", (48, 32)).save(tmp_path / "a.png")
    one = f"validation.images=['{tmp_path}/a.png']"
    check_early(make_job(*I2V, one, "validation.prompts=[x]"))
    with pytest.raises(UserError, match=r"validation\.images has 1 images for 2 prompts; give one per prompt"):
        check_early(make_job(*I2V, one, "validation.prompts=[x,y]"))
    job = make_job()
    given = job.model_copy(update={"validation": job.validation.model_copy(update={"images": ["a.png"]})})
    assert [issue.problem for issue in check_train(given)] == [
        "task=t2v does not use images; remove them, or use task=i2v"
    ]
    job = make_job(*I2V)
    empty = job.model_copy(update={"validation": job.validation.model_copy(update={"images": []})})
    assert "is empty; use null" in check_train(empty)[0].problem


def test_generate_names_a_missing_image_before_anything_is_loaded(
    in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert generate(["model=tiny-5b-i2v", "generate.images=nowhere.png", "cache_dir=cache"]) == 2
    assert "generate.images: the image nowhere.png cannot be opened" in capsys.readouterr().err
    assert not Path("cache").exists()


def test_a_validation_reads_its_images_once_and_early(tmp_path: Path, make_job: MakeJob) -> None:
    Image.new("RGB", (48, 32), (9, 8, 7)).save(tmp_path / "a.png")
    job = make_job(*I2V)
    requests = video_requests(job.validation, ["x"], 2, [Given(str(tmp_path / "a.png"))])
    validator = Validator(requests, {}, job.model, None)  # type: ignore[arg-type]
    (tmp_path / "a.png").unlink()
    assert [validator.images[request].getpixel((0, 0)) for request in requests] == [(9, 8, 7)] * 2
    with pytest.raises(UserError, match="does not exist"):
        Validator(requests, {}, job.model, None)  # type: ignore[arg-type]
