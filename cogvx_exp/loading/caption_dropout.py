"""The caption of a training sample: one of its clip's, or none (`data.caption_dropout`)."""

from cogvx_exp.core.randomness import SampleRandomness
from cogvx_exp.latents.dataset import EncodedClips


def draw_caption(clips: EncodedClips, clip: int, random: SampleRandomness, dropout: float) -> str:
    """The cache key of the caption drawn for a sample.

    Args:
        clips: the encoded clips.
        clip: index of the sample's clip.
        random: of the sample.
        dropout: probability of the empty caption.
    """
    # Guidance at sampling time needs a prediction for the empty caption, which this trains.
    if random.uniform("caption") < dropout:
        return clips.no_caption
    # A draw of its own: with another number of captions, dropout still hits the same samples.
    captions = clips.captions[clip]
    return captions[int(random.uniform("which caption") * len(captions))]
