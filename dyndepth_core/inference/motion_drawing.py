"""Pictures of motion: the mask as a tint, an arrow and a label for every moving object."""

from __future__ import annotations

import cv2
import numpy as np

from dyndepth_core.instances.motion import Motion, MovingObject

ARROW_SECONDS = 0.5  # an arrow ends where its object will be seen by then, were the camera still
NEAR = 0.05  # of an object's depth; nearer to the camera no arrow is drawn
WIDTH = 960  # pixels; smaller pictures are enlarged to be read, larger ones kept
FONT = cv2.FONT_HERSHEY_SIMPLEX
UNNAMED = (190, 190, 190)  # moves, but was not seen long enough for an id


def draw_motion(
    image: np.ndarray, motion: Motion, K: np.ndarray, unit: str, least_width: int = WIDTH
) -> np.ndarray:
    """Draw motion on its image, uint8 (h, w, 3) RGB, at least `least_width` wide; K (3, 3) of that
    image.

    unit: of the speeds, written behind them. Objects that are only predicted have a hollow arrow.
    """
    height, width = image.shape[:2]
    zoom = max(1.0, least_width / width)
    size = (round(width * zoom), round(height * zoom))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    ids = cv2.resize(
        np.where(motion.mask, motion.ids + 1, 0).astype(np.float32), size,
        interpolation=cv2.INTER_NEAREST,
    ).astype(np.int32)  # fmt: skip
    for name in np.unique(ids[ids > 0]):
        own, colour = ids == name, color(int(name) - 1)
        picture[own] = (picture[own].astype(np.uint16) + np.array(colour)) // 2
    for found in sorted(motion.objects, key=lambda o: -o.position[2]):
        _draw_object(picture, found, K, zoom, unit)
    return picture


def color(name: int) -> tuple[int, int, int]:
    """RGB of an id, the same in every frame; neighbouring ids far apart."""
    if name == 0:
        return UNNAMED
    hue = np.uint8([[[name * 67 % 180, 220, 255]]])
    r, g, b = cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0]
    return int(r), int(g), int(b)


def arrow(found: MovingObject, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (2,) where an object is and where it would be seen after ARROW_SECONDS.

    One that comes past the camera ends at NEAR of its depth.
    """
    move, z = ARROW_SECONDS * found.velocity, found.position[2]
    share = 1.0 if z + move[2] > NEAR * z else (1 - NEAR) * z / -move[2]
    ends = (found.position, found.position + share * move)
    start, end = (K[:2] @ x / x[2] for x in ends)
    return start, end


def _draw_object(
    picture: np.ndarray, found: MovingObject, K: np.ndarray, zoom: float, unit: str
) -> None:
    limit = 4 * max(picture.shape)  # OpenCV's coordinates are integers
    start, end = (
        tuple(int(v) for v in np.clip(zoom * (x + 0.5), -limit, limit)) for x in arrow(found, K)
    )
    for thickness, colour in ((5, (0, 0, 0)), (1 if found.missed else 3, color(found.id))):
        cv2.arrowedLine(picture, start, end, colour, thickness, cv2.LINE_AA, tipLength=0.25)
    text = f"#{found.id} {found.speed:.1f} {unit}"
    (w, h), base = cv2.getTextSize(text, FONT, 0.5, 1)
    left = int(np.clip(zoom * (found.box[0] + found.box[2]) / 2 - w / 2, 0, picture.shape[1] - w))
    foot = int(np.clip(zoom * found.box[1] - 5, h + 3, picture.shape[0] - base))
    picture[foot - h - 2 : foot + base, left : left + w] //= 3
    cv2.putText(picture, text, (left, foot), FONT, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
