"""The frames of a video, their display times, and the decoder known to return exactly these.

The reference is a player: frame k is frame k of `ffmpeg -i FILE -fps_mode passthrough`. A file's packets differ from it
in many ways: an edit list hides frames that must still be decoded (a cut by stream copy), frames before the first
decodable one are dropped, a packet may hold half a frame or none. Packets are trusted only where each is known to be
one frame: in mp4, mov, mkv and webm, with H.264, HEVC, VP9 and AV1, starting with an independent frame. All other files
are decoded once to find their frames.

decord seeks to the keyframe before a frame and counts from there, which is correct if no frames are hidden and every
keyframe is a clean start that no frame crosses (closed GOPs). PyAV reads from the beginning.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from cogvx_exp.media.errors import REENCODE, ClipError, cut_off
from cogvx_exp.media.picture import Geometry, geometry_of, refuse_hdr

CONTAINERS = ("mov", "matroska")
"""Containers whose packets are whole frames with correct timestamps; libavformat calls mp4 mov, and webm matroska."""
PROGRESSIVE = (0, 1)
"""AVFieldOrder: unknown (where the codec has no fields), progressive."""
CLEAN_STARTS = {"h264": frozenset({5}), "hevc": frozenset(range(16, 22))}
"""NAL unit types of frames at which decoding can start: IDR (H.264), IDR, BLA and CRA (HEVC). Other keyframes, such
as recovery points of an intra refresh, depend on earlier frames."""
ALWAYS_CLEAN = ("vp9", "av1")
"""Codecs whose keyframes are always clean starts."""
USUAL_RATE = 25.0
"""Frames per second of a file that does not state them."""
DISCONTINUOUS, LONGEST_STEP = 0x0200, 10.0
"""AVFMT_TS_DISCONT: formats (ts, mpg) whose clock may jump; as in ffmpeg, a longer step in seconds is a jump."""
DECORD = "decord"


@dataclass(frozen=True)
class Timeline:
    """The frames of a video as shown by a player."""

    starts: np.ndarray
    """Display time of each frame, seconds from the first, ascending, (frames,)."""
    duration: float
    """Seconds from the start of the first frame to the end of the last."""
    decoder: str
    """The decoder known to return these frames, and why it is not decord: "decord", "PyAV (open GOPs)"."""
    geometry: Geometry
    size: tuple[int, int]
    """Height and width as displayed, in pixels."""
    timestamps: np.ndarray | None = None
    """Expected timestamps of the frames, in the stream's units; None: not known in advance."""
    entries: np.ndarray | None = None
    """Timestamps of the keyframes at which decoding can start, ascending; None: only at the beginning."""
    interlaced: bool = False


@dataclass
class _Packets:
    """Data of a stream's packets, in storage order."""

    times: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    """Indices of the keyframe packets."""
    clean: list[bool] = field(default_factory=list)
    """Whether decoding can start at each keyframe."""


@contextmanager
def opened(path: str) -> Iterator[tuple[Any, Any]]:
    """Opens a file with PyAV: the container and its main video stream.

    Raises:
        ClipError: it has no video.
    """
    import av

    with av.open(path) as container:
        # Not the first: a cover picture is a video stream, too.
        stream = container.streams.best("video")
        if stream is None:
            raise ClipError("has no video stream, only audio", "remove it")
        stream.codec_context.thread_count = 1  # clips are decoded in parallel processes already
        yield container, stream


def decoded(container: Any, stream: Any) -> Iterator[Any]:
    """All frames of a stream, from the beginning.

    Packets that cannot be decoded are skipped before the first frame (a recording that starts in the middle of a group
    of pictures) and after the last (a truncated one).

    Raises:
        ClipError: there is damage between two frames.
    """
    from av.error import FFmpegError

    started = damaged = False
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except FFmpegError:
            # Before the first frame, packets without their keyframe are normal in recordings.
            damaged = started
            continue
        if damaged and frames and packet.size:
            raise ClipError("has damaged frames that cannot be decoded", REENCODE)
        started = started or bool(frames)
        yield from frames


def read_timeline(path: str) -> Timeline:
    """Determines the frames of a video.

    Raises:
        ClipError: it has none, or is truncated, damaged or HDR.
    """
    with opened(path) as (container, stream):
        timeline = _from_packets(container, stream) if _can_tell(container, stream) else None
    if timeline:
        return timeline
    with opened(path) as (container, stream):
        return _from_frames(container, stream)


def _can_tell(container: Any, stream: Any) -> bool:
    """Whether the packets of this kind of file are reliable."""
    codec = stream.codec_context
    known = codec.codec.canonical_name in (*CLEAN_STARTS, *ALWAYS_CLEAN)
    return container.format.name.startswith(CONTAINERS) and known and codec.field_order in PROGRESSIVE


def _from_packets(container: Any, stream: Any) -> Timeline | None:
    """The timeline from the packets, or None if they are not reliable."""
    packets, first = _scan(container, stream)
    if container.format.name.startswith("mov"):
        # mp4 has an index of all frames, so a truncated file is recognized by the packets that are missing.
        announced = max(len(stream.index_entries), 0)
        if len(packets.times) < announced:
            raise cut_off(len(packets.times), announced)
    if not packets.times:
        raise ClipError("has no frames", "remove it")
    if None in packets.times or len(set(packets.times)) < len(packets.times) or first is None:
        return None
    # Not a clean start: only decoding shows which frame comes first.
    if first.interlaced_frame or packets.keyframes[:1] != [0] or not packets.clean[0]:
        return None
    times = np.array(packets.times, dtype=np.int64)
    if times.min() < times[0]:  # frames shown before the first decodable one
        return None
    if stream.codec_context.has_b_frames and (np.diff(times) > 0).all():  # the timestamps deny the reordering
        return None
    # Packets are in decoding order; frames are shown by their timestamps.
    shown = np.flatnonzero(~np.array(packets.hidden))
    order = shown[np.argsort(times[shown])]
    base = float(stream.time_base or 0)
    starts, usual = _ascending(times[order] * base, container, stream)
    geometry = geometry_of(first, stream.sample_aspect_ratio)
    return Timeline(
        starts,
        round(float(starts[-1]) + (max(packets.durations[order[-1]], 0) * base or usual), 9),
        _decoder(packets, times, geometry, stream.codec_context.codec.canonical_name),
        geometry,
        geometry.size(first),
        times[order],
        _entries(packets, times),
    )


def _scan(container: Any, stream: Any) -> tuple[_Packets, Any]:
    """Reads all packets, and decodes up to the first displayed frame."""
    from av.error import FFmpegError

    packets, first = _Packets(), None
    for packet in container.demux(stream):
        if first is None:
            try:
                first = next(iter(packet.decode()), None)
            except FFmpegError:
                return packets, None
            if first is not None:
                refuse_hdr(first)
        if not packet.size:
            continue  # the flush packet
        if packet.is_keyframe:
            packets.keyframes.append(len(packets.times))
            packets.clean.append(_is_clean_start(packet, stream.codec_context))
        packets.times.append(packet.pts)
        packets.durations.append(packet.duration or 0)
        packets.hidden.append(packet.is_discard)
    return packets, first


def _is_clean_start(packet: Any, codec: Any) -> bool:
    """Whether decoding can start at a keyframe."""
    name = codec.codec.canonical_name
    if name not in CLEAN_STARTS:
        return True
    header = bytes(codec.extradata or b"")
    place = {"h264": 4, "hevc": 21}[name]
    if len(header) <= place or header[0] != 1:  # not avcC or hvcC: another stream format
        return False
    # In mp4 and mkv, NAL units have a length in front instead of a start code; its size is in the header.
    length, data, at = (header[place] & 3) + 1, memoryview(packet), 0
    while at + length < len(data):
        kind = data[at + length]
        if (kind & 31 if name == "h264" else kind >> 1 & 63) in CLEAN_STARTS[name]:
            return True
        at += length + int.from_bytes(data[at : at + length], "big")
    return False


def _entries(packets: _Packets, times: np.ndarray) -> np.ndarray | None:
    """Timestamps of the keyframes at which decoding can start; None if there is an edit list."""
    if any(packets.hidden):
        return None
    latest = np.maximum.accumulate(times)
    places = np.array(packets.keyframes)[packets.clean]
    # A frame that is stored before a keyframe and shown after it would be missed.
    return np.sort(times[[place for place in places if not place or latest[place - 1] < times[place]]])


def _decoder(packets: _Packets, times: np.ndarray, geometry: Geometry, codec: str) -> str:
    """The decoder known to return the frames of a stream with reliable packets."""
    if any(packets.hidden):
        return "PyAV (edit list)"
    latest, earliest = np.maximum.accumulate(times), np.minimum.accumulate(times[::-1])[::-1]
    for place, clean in zip(packets.keyframes, packets.clean, strict=True):
        crossed = place and latest[place - 1] > times[place]
        if not clean or crossed or earliest[place] < times[place]:
            return "PyAV (open GOPs)"
    if codec == "hevc":  # decord2 3.4.0 stops at the second group of pictures with B-frames
        return "PyAV (HEVC)"
    if geometry.aspect != 1:
        return "PyAV (pixels not square)"
    return "PyAV (mirrored)" if geometry.mirrored else DECORD


def _from_frames(container: Any, stream: Any) -> Timeline:
    """The timeline from decoding everything, one frame at a time."""
    shown: list[int | None] = []
    decoded_at: list[int | None] = []
    first, last, interlaced = None, 0, False
    for frame in decoded(container, stream):
        if first is None:
            refuse_hdr(frame)
            first = frame
        shown.append(frame.pts)
        decoded_at.append(frame.dts)
        # One interlaced frame is enough: broadcast recordings mix both.
        last, interlaced = frame.duration or 0, interlaced or frame.interlaced_frame
    if first is None:
        raise ClipError("has no frames", "remove it")
    base = float(stream.time_base or 0)
    # If the frames are not in presentation order, their timestamps are wrong (avi has none). ffmpeg decides likewise.
    times = shown if _in_order(shown) or not _in_order(decoded_at) else decoded_at
    seconds = np.array([np.nan if time is None else time * base for time in times])
    starts, usual = _ascending(seconds, container, stream)
    geometry = geometry_of(first, stream.sample_aspect_ratio)
    why = "interlaced" if interlaced else f"{stream.codec_context.name} in {container.format.name.partition(',')[0]}"
    return Timeline(
        starts,
        round(float(starts[-1]) + (max(last, 0) * base or usual), 9),
        f"PyAV ({why})",
        geometry,
        geometry.size(first),
        interlaced=interlaced,
    )


def _in_order(times: list[int | None]) -> bool:
    known = [time for time in times if time is not None]
    return bool(known) and all(first < second for first, second in pairwise(known))


def _ascending(times: np.ndarray, container: Any, stream: Any) -> tuple[np.ndarray, float]:
    """Display times in seconds from the first frame, and the typical frame interval.

    Times out of order are sorted. Missing or equal times, and those beyond a clock jump, follow at the typical
    interval.
    """
    rate = float(stream.average_rate or stream.guessed_rate or 0) or USUAL_RATE
    jumps = bool(container.format.flags & DISCONTINUOUS)
    steps = np.diff(times if jumps or not np.isfinite(times).all() else np.sort(times))
    good = np.isfinite(steps) & (steps > 0) & ((steps <= LONGEST_STEP) | (not jumps))
    # The median: one long pause must not stretch all missing times.
    usual = float(np.median(steps[good])) if good.any() else 1 / rate
    # Rounded below, so that the choice of frames does not depend on the last bits of a sum.
    starts = np.concatenate([[0.0], np.cumsum(np.where(good, steps, usual))])
    return starts.round(9), usual
