"""What a sample of a camera's images shows: light, sharpness, repeats, standing, the bonnet."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np

from dyndepth_core.data.checks import Finding

WIDTH, THUMB = 640, 160  # pixels, at most: for sharpness; for what moves
BLACK, WHITE = 8, 247  # grey values at and beyond which a pixel says nothing
DARK, BRIGHT, UNLIT = 30, 225, 0.3  # mean grey value; share of black or white pixels
SOFT = 0.12  # sharpness below which an image is blurred whatever the others are
BLURRED = 0.6  # of the median sharpness of the sample
TEXTURE, TEXTURED = 12.0, 50  # grey values per pixel whose shift can be told; pixels, at least
STILL = 0.06  # pixels of the thumbnail: median shift below which the camera stands
FEW = 0.05  # share of images that may be bad without a word
QUIET = 0.25  # of the usual change of a row: what does not change is the vehicle's own
LEAST = 12  # images in motion from which a bonnet is told


class ImageSample:
    """Looks at pairs of neighbouring frames, far apart from pair to pair."""

    def __init__(self) -> None:
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.damaged: list[str] = []
        self._grey: list[float] = []
        self._unlit: list[float] = []
        self._sharp: list[float] = []
        self._repeats: list[bool] = []
        self._shifts: list[float] = []
        self._thumbs: list[np.ndarray] = []

    def __len__(self) -> int:
        return len(self._grey)

    @property
    def size(self) -> tuple[int, int] | None:
        """The usual size (H, W)."""
        return self.sizes.most_common(1)[0][0] if self.sizes else None

    def pair(self, first: np.ndarray, second: np.ndarray | None) -> None:
        """Look at an image, uint8 (H, W, 3) RGB, and at the one after it, if there is one."""
        thumb = self._look(first)
        if second is None or second.shape != first.shape:
            return
        self._repeats.append(bool(np.array_equal(first, second)))
        shift = median_shift(thumb, self._look(second))
        self._shifts.append(shift)
        if not shift < STILL:
            self._thumbs.append(thumb)

    def _look(self, image: np.ndarray) -> np.ndarray:
        self.sizes[image.shape[:2]] += 1
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = _to_width(grey, WIDTH)
        self._grey.append(float(grey.mean()))
        lit = cv2.countNonZero(cv2.inRange(grey, BLACK, WHITE)) / grey.size
        self._unlit.append(1 - lit)
        self._sharp.append(_sharpness(grey))
        return _to_width(grey, THUMB)

    @property
    def moving(self) -> float | None:
        """Share of the pairs between which the image as a whole moves; None where none tells."""
        known = [s for s in self._shifts if np.isfinite(s)]
        return float(np.mean([s >= STILL for s in known])) if known else None

    def bonnet(self) -> float:
        """Share of the rows, at the bottom, that do not change while the rest moves."""
        thumbs = [t for t in self._thumbs if t.shape == self._thumbs[0].shape]
        if len(thumbs) < LEAST:
            return 0.0
        change = np.median(np.stack(thumbs).astype(np.float32).std(0), axis=1)
        quiet = change < QUIET * np.median(change)
        return float(np.argmin(quiet[::-1])) / len(quiet) if not quiet.all() else 0.0

    def findings(self) -> list[Finding]:
        """What is worth a word."""
        about = "images"
        if not self._grey:
            why = self.damaged[0] if self.damaged else "there are none"
            return [Finding("fault", about, f"none can be read: {why}", "record again")]
        found = []

        def say(count: int, of: int, what: str, remedy: str) -> None:
            if count > FEW * of:
                found.append(Finding("warning", about, f"{what}: {count} of {of} seen", remedy))

        grey, unlit, sharp = map(np.array, (self._grey, self._unlit, self._sharp))
        usual = float(np.nanmedian(sharp)) if np.isfinite(sharp).any() else np.nan
        say(
            int((grey < DARK).sum()), len(grey), "too dark", "more exposure, or leave out the night"
        )
        bad = (grey > BRIGHT) | ((unlit > UNLIT) & (grey >= DARK))
        say(int(bad.sum()), len(grey), "overexposed or clipped", "less exposure")
        soft = (sharp < BLURRED * usual) | (sharp < SOFT)
        say(int(soft.sum()), len(sharp), "blurred", "a shorter exposure; clean and focus the lens")
        say(sum(self._repeats), len(self._repeats), "repeats of the frame before",
            "the driver publishes frames twice: collect leaves them out")  # fmt: skip
        say(len(self.damaged), len(grey) + len(self.damaged), "damaged",
            "they are left out; record again")  # fmt: skip
        if len(self.sizes) > 1:
            kinds = ", ".join(f"{w}x{h}" for (h, w), _ in self.sizes.most_common())
            text = f"resolution changes: {kinds}"
            found.append(Finding("warning", about, text, "only the usual one is collected"))
        if (share := self.bonnet()) >= 0.03:
            text = f"the lowest {share:.0%} of the rows never change: the vehicle's bonnet?"
            found.append(Finding("warning", about, text, f"cut them off: {crop_option(share)}"))
        size = f"{self.size[1]}x{self.size[0]}"
        return found or [Finding("good", about, f"{size}, {len(grey)} looked at, none bad")]


def crop_option(bonnet: float) -> str:
    """The option of `dyndepth collect` that cuts a bonnet off."""
    return f"--crop 0,{bonnet + 0.01:.2f},0,0"


def _to_width(grey: np.ndarray, width: int) -> np.ndarray:
    width = min(width, grey.shape[1])
    height = max(1, round(grey.shape[0] * width / grey.shape[1]))
    return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)


def _sharpness(grey: np.ndarray) -> float:
    """mean |I(x + 1) - I(x)| / mean |I(x + 8) - I(x)|, the lower of both axes: contrast and
    exposure cancel out; NaN where the image is flat.
    """
    found = []
    for image in (grey, grey.T):
        near, far = (cv2.mean(cv2.absdiff(image[:, :-d], image[:, d:]))[0] for d in (1, 8))
        found.append(near / far if far > 0.5 else np.nan)
    return float(min(found))


def median_shift(before: np.ndarray, after: np.ndarray) -> float:
    """Median over textured pixels of the normal flow |dI/dt| / |grad I| between two grey images
    (h, w); pixels, NaN without texture. Near zero of a standing camera, whatever drives past.
    """
    mean = cv2.addWeighted(before, 0.5, after, 0.5, 0, dtype=cv2.CV_32F)
    dx, dy = (cv2.Sobel(mean, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    gradient = cv2.magnitude(dx, dy)
    textured = gradient > TEXTURE
    if np.count_nonzero(textured) < TEXTURED:
        return float("nan")
    change = after.astype(np.float32) - before
    return float(np.median(np.abs(change - np.median(change))[textured] / gradient[textured]))
