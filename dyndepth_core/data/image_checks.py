"""What a sample of a camera's images shows: light, sharpness, repeats, standing, the bonnet."""

from __future__ import annotations

from collections import Counter

import numpy as np

from dyndepth_core.data.checks import Finding
from dyndepth_core.data.frame_checks import STILL, look, median_shift

DARK, BRIGHT, UNLIT = 30, 225, 0.3  # mean grey value; share of black or white pixels
SOFT = 0.12  # sharpness below which an image is blurred whatever the others are
BLURRED = 0.6  # of the median sharpness of the sample
RUINED = 0.25  # share of damaged images that leaves too few beside each other to train on
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
        seen = look(image)
        self._grey.append(float(seen.thumb.mean()))
        self._unlit.append(1 - seen.lit)
        self._sharp.append(float(np.min(seen.sharp)))  # NaN of a flat image stays
        return seen.thumb

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
        if self.damaged:
            seen = len(grey) + len(self.damaged)
            level = "fault" if len(self.damaged) > RUINED * seen else "warning"
            text = f"damaged: {len(self.damaged)} of {seen} seen, as {self.damaged[0]}"
            found.append(Finding(level, about, text, "they are left out; record again"))
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
