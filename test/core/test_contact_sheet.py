"""The contact sheet shows frames of every sequence, tagged ones marked."""

import cv2
import numpy as np

from dyndepth_core.data import contact_sheet
from dyndepth_core.data.calibration import Calibration
from dyndepth_core.data.contact_sheet import COLUMNS, LABEL, MARGIN, TILE_WIDTH, write_contact_sheet
from dyndepth_core.data.writer import RecordingWriter


def test_frames_of_all_sequences_in_rows_of_their_own_height(tmp_path):
    for name, size, count in (("a", (60, 120), 7), ("b", (48, 48), 1)):
        with RecordingWriter(tmp_path / name, Calibration(size[1], size[0])) as writer:
            for i in range(count):
                tagged = name == "a" and i == 1
                image = np.full((*size, 3), 100 + 20 * i, np.uint8)
                writer.add(image, i, keep=not tagged, reason="standing" if tagged else "")
    path = tmp_path / "sheet.jpg"
    write_contact_sheet(path, tmp_path, [("a", 7), ("b", 1)])
    sheet = cv2.imread(str(path)).astype(int)
    wide = TILE_WIDTH + MARGIN
    first, second = LABEL + 120 + MARGIN, LABEL + 240 + MARGIN
    assert sheet.shape == (first + second, COLUMNS * wide, 3)
    grey = [sheet[LABEL + 60, k * wide + 120].mean() for k in range(COLUMNS)]
    assert np.allclose(grey, [100 + 20 * k for k in range(COLUMNS)], atol=3)
    assert abs(sheet[first + LABEL + 120, wide + 120].mean() - 100) < 3  # b, its only frame
    edge = sheet[LABEL + 30, wide]  # BGR, orange
    assert edge[2] > edge[1] + 60 > edge[0] and np.ptp(sheet[LABEL + 30, 0]) < 12
    assert sheet[first + 16 :, 2 * wide + 16 :].max() < 16


def test_many_frames_are_drawn_evenly_and_none_give_no_picture(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(contact_sheet, "Recording", lambda path: range(50))
    monkeypatch.setattr(
        contact_sheet,
        "_tile",
        lambda r, i: seen.append(i) or np.zeros((20, TILE_WIDTH, 3), np.uint8),
    )
    write_contact_sheet(tmp_path / "a.jpg", tmp_path, [("a", 50), ("b", 50)])
    assert len(seen) == contact_sheet.TILES and seen[0] == 0 and seen[-1] == 49
    assert set(np.diff(seen[:24])) <= {2, 3}
    write_contact_sheet(tmp_path / "b.jpg", tmp_path, [])
    assert (tmp_path / "a.jpg").exists() and not (tmp_path / "b.jpg").exists()
