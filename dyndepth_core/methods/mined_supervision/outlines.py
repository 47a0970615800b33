"""Sharp outlines of objects that a network sees roughly, from the colours of the image."""

from __future__ import annotations

import cv2
import numpy as np

MARGIN = 6  # pixels around an object that are certainly not of it
AROUND = 9  # side of the square by which it may be larger than it was seen
SURE, LIKELY = 0.85, 0.5  # of its highest probability: certainly of it, probably
TOP = 0.95  # quantile that is its highest
STEPS = 3
FEW = 10  # pixels to learn colours from


def cut_out(image: np.ndarray, likely: np.ndarray, ids: np.ndarray, road: np.ndarray) -> np.ndarray:
    """Ids (h, w), uint8, of the objects of ids (h, w) as the colours of image (h, w, 3), uint8,
    part them from what is around (GrabCut, Rother et al. 2004; OpenCV's), the lower id where two
    meet. likely (h, w): probability that a pixel is of any object; road (h, w) bool: certainly of
    none. What has too few pixels to learn colours from stays as it is, without road.
    """
    out = np.zeros_like(ids)
    for name in np.unique(ids[ids > 0]):
        rows, cols = np.nonzero(ids == name)
        window = (
            slice(max(0, rows.min() - MARGIN), rows.max() + 1 + MARGIN),
            slice(max(0, cols.min() - MARGIN), cols.max() + 1 + MARGIN),
        )
        inside = _inside(image[window], likely[window], ids[window] == name, road[window])
        out[window][inside & (out[window] == 0)] = name
    return out


def _inside(
    image: np.ndarray, likely: np.ndarray, mask: np.ndarray, road: np.ndarray
) -> np.ndarray:
    top = np.quantile(likely[mask], TOP)
    marks = np.full(mask.shape, cv2.GC_BGD, np.uint8)
    marks[cv2.dilate(mask.astype(np.uint8), np.ones((AROUND, AROUND))) > 0] = cv2.GC_PR_BGD
    marks[mask & (likely > LIKELY * top)] = cv2.GC_PR_FGD
    marks[mask & (likely > SURE * top)] = cv2.GC_FGD
    marks[road] = cv2.GC_BGD
    if (marks == cv2.GC_BGD).sum() < FEW or (marks == cv2.GC_FGD).sum() < FEW:
        return mask & ~road
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # the colours are clustered from random beginnings
    cv2.grabCut(np.ascontiguousarray(image), marks, None, *models, STEPS, cv2.GC_INIT_WITH_MASK)
    found = ((marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)).astype(np.uint8)
    return cv2.morphologyEx(found, cv2.MORPH_OPEN, np.ones((3, 3))) > 0
