"""Plain preprocessing: floats first, then resize, then normalise."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def preprocess(bgr: np.ndarray, size: tuple[int, int]) -> Tensor:
    """uint8 BGR (H, W, 3) -> normalised RGB (1, 3, h, w)."""
    image = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.float32) / 255.0
    image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    image = (image - MEAN) / STD
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
