"""Which topics of a bag belong to the camera: found where clear, else a list to choose from."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from itertools import islice

from dyndepth_core.data.bag import IMAGE_TYPES, Bag, stamp_ns
from dyndepth_core.data.calibration import MAX_SIDE, Calibration
from dyndepth_core.data.collect_options import ALL_CAMERAS
from dyndepth_core.data.odometry import OdometryPieces, odometry_values
from dyndepth_core.data.rectify import calibration_from_info

logger = logging.getLogger(__name__)

INFO_TYPE = "sensor_msgs/msg/CameraInfo"
ODOMETRY_TYPES = ("nav_msgs/msg/Odometry", "geometry_msgs/msg/TwistStamped")
LOOK_AT = 5  # frames; one of them may be damaged


@dataclass(frozen=True)
class ImageTopic:
    """An image topic as its first frames show it; size (H, W) is None where none can be decoded."""

    name: str
    type: str
    count: int
    encoding: str
    size: tuple[int, int] | None
    why_not: str = ""

    def __str__(self) -> str:
        size = f"{self.size[1]}x{self.size[0]}" if self.size else self.why_not
        return f"{self.name} ({self.count} messages, {self.encoding or self.type}, {size})"


def image_topics(bag: Bag) -> list[ImageTopic]:
    """All image topics of a bag."""
    return [
        _look(bag, name) for name, t in bag.topics().items() if t.type in IMAGE_TYPES and t.count
    ]


def _look(bag: Bag, name: str) -> ImageTopic:
    info = bag.topics()[name]
    encoding, fault, sizes = "", "no readable message", Counter()
    for frame in islice(bag.frames(name), LOOK_AT):
        encoding = encoding or frame.encoding
        try:
            size = frame.image().shape[:2]
            if max(size) > MAX_SIDE:
                raise ValueError(f"{size[1]}x{size[0]} pixels; at most {MAX_SIDE} on a side")
            sizes[size] += 1
        except ValueError as error:
            fault = str(error)
    size = sizes.most_common(1)[0][0] if sizes else None
    return ImageTopic(name, info.type, info.count, encoding, size, "" if size else fault)


def choose_image_topic(bag: Bag, wanted: str | None = None) -> ImageTopic:
    """The camera's topic: the one wanted, or the only one there is.

    Raw and compressed images of one camera count once (raw is taken). Raises ValueError with the
    list of topics when there is none or more than one.
    """
    if wanted:
        topics = bag.topics()
        if wanted not in topics or topics[wanted].type not in IMAGE_TYPES:
            what = "is not in the bag" if wanted not in topics else f"holds {topics[wanted].type}"
            raise ValueError(f"{bag.path}: topic {wanted} {what}; {_listing(bag)}")
        found = _look(bag, wanted)
        if found.size is None:
            raise ValueError(f"{bag.path}: topic {wanted} holds no usable image: {found.why_not}")
        return found
    usable = _distinct(image_topics(bag))
    if len(usable) == 1:
        return usable[0]
    if not usable:
        raise ValueError(f"{bag.path}: no topic with camera images; {_listing(bag)}")
    raise ValueError(
        f"{bag.path}: several cameras, choose with --image-topic (all of them: --image-topic "
        f"{ALL_CAMERAS}):\n  " + "\n  ".join(str(t) for t in usable)
    )


def choose_image_topics(bag: Bag, wanted: str | None = None) -> list[ImageTopic]:
    """The cameras' topics: the only one, the one wanted, several separated by commas, or `all`.

    `all` leaves out topics without a usable image, said aloud. Raises ValueError as
    choose_image_topic.
    """
    if wanted != ALL_CAMERAS:
        names = [name.strip() for name in (wanted or "").split(",") if name.strip()] or [None]
        return [choose_image_topic(bag, name) for name in dict.fromkeys(names)]
    found = image_topics(bag)
    usable = _distinct(found)
    for topic in found:
        if topic.size is None:
            logger.warning("%s: %s left out", bag.path, topic)
    if not usable:
        raise ValueError(f"{bag.path}: no topic with camera images; {_listing(bag)}")
    return usable


def _distinct(found: list[ImageTopic]) -> list[ImageTopic]:
    """Those with images, raw and compressed ones of one camera once."""
    usable = [t for t in found if t.size is not None]
    names = {t.name for t in usable}
    return [t for t in usable if t.name.removesuffix("/compressed") not in names - {t.name}]


def camera_name(topic: str, others: Collection[str] = ()) -> str:
    """A camera's name for folders: `front` of `/front/image_raw`, and all of the topic where
    another of the `others` would have the same.
    """

    def short(name: str) -> str:
        parts = name.removesuffix("/compressed").strip("/").split("/")
        return "_".join(parts[:-1] if len(parts) > 1 and "image" in parts[-1] else parts)

    if sum(short(other) == short(topic) for other in {*others, topic}) > 1:
        return topic.strip("/").replace("/", "_")
    return short(topic)


def _listing(bag: Bag) -> str:
    images = image_topics(bag)
    if images:
        return "its image topics are:\n  " + "\n  ".join(str(t) for t in images)
    return "it has " + (", ".join(f"{t.name} ({t.type})" for t in bag.topics().values()) or "none")


def _base(image_topic: str) -> str:
    """The name that image and camera_info of a camera have in common."""
    return image_topic.removesuffix("/compressed").rpartition("/")[0]


def find_calibration(bag: Bag, image: ImageTopic, wanted: str | None = None) -> Calibration:
    """Calibration of an image topic from the camera_info beside it.

    Without a usable camera_info the intrinsics are unknown (a Calibration without fx), said aloud.
    Raises ValueError when the topic wanted is not there or does not fit the image.
    """
    height, width = image.size
    infos = [t.name for t in bag.topics().values() if t.type == INFO_TYPE and t.count]
    if wanted and wanted not in infos:
        raise ValueError(
            f"{bag.path}: no camera_info on {wanted}; it has {', '.join(infos) or 'none'}"
        )
    base = _base(image.name)
    beside = [t for t in infos if t == f"{base}/camera_info"]
    others = {_base(t.name) for t in bag.topics().values() if t.type in IMAGE_TYPES} - {base}
    free = [t for t in infos if t.rpartition("/")[0] not in others]  # of no other camera
    chosen = [wanted] if wanted else beside or (free if len(free) == 1 else [])
    rectified = "rect" in image.name.removeprefix(base)
    fault = f"no camera_info beside it (the bag has {', '.join(infos) or 'none'})"
    for topic in chosen:
        for _, message in islice(bag.objects(topic), LOOK_AT):
            try:
                found = calibration_from_info(message, image.size, rectified, source=topic)
            except ValueError as error:
                fault = str(error)
                continue
            if found.K is not None:
                return found
            fault = f"{topic} holds an uncalibrated camera (K is zero)"
    if wanted:
        raise ValueError(f"{bag.path}: {fault}")
    _warn(f"{bag.path}: {image.name} has unknown intrinsics: {fault}")
    return Calibration(width, height, source=f"unknown: {fault}")


def find_odometry(
    bag: Bag, wanted: str | None = None, bag_time: bool = False
) -> tuple[str | None, OdometryPieces]:
    """(topic, odometry) of the vehicle; (None, without any message) where the bag has none.

    bag_time: its stamps are those of recording. Of several the one with a pose and the most
    messages is taken. Raises ValueError when the topic wanted is not there.
    """
    found = [t for t in bag.topics().values() if t.type in ODOMETRY_TYPES and t.count]
    if wanted:
        names = ", ".join(t.name for t in found) or "none"
        found = [t for t in found if t.name == wanted]
        if not found:
            raise ValueError(f"{bag.path}: no odometry on {wanted}; it has {names}")
    if not found:
        return None, OdometryPieces([], [], [])
    best = max(found, key=lambda t: (t.type == ODOMETRY_TYPES[0], t.count))
    if len(found) > 1:
        others = ", ".join(t.name for t in found if t is not best)
        logger.warning("%s: odometry taken from %s, not from %s", bag.path, best.name, others)
    arrivals, stamps, values = [], [], []
    for bag_ns, message in bag.objects(best.name):
        arrivals.append(bag_ns)
        stamps.append(bag_ns if bag_time else stamp_ns(message.header) or bag_ns)
        values.append(odometry_values(message))
    return best.name, OdometryPieces(arrivals, stamps, values)


@cache
def _warn(text: str) -> None:
    """Once, however often a bag is opened."""
    logger.warning(text)
