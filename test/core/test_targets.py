"""Which frames become targets: by stamp, never across a gap in time."""

import numpy as np
from tiny import blank

from dyndepth_core.data.sample import SampleSource
from dyndepth_core.data.settings import DataConfig


def targets(recording, **options):
    """(target, sources) of every target that a source offers."""
    found = SampleSource([recording], DataConfig(size=(64, 96), **options), 1, 0, train=False)
    return [(t, s) for _, t, s in found._targets]


def test_video_rate_is_brought_down_to_the_target_rate_by_stamp(tmp_path):
    thirty = blank(tmp_path / "thirty", np.arange(12) * 1e9 / 30)
    assert targets(thirty) == [(i, (i - 3, i + 3)) for i in range(3, 9)]
    assert targets(thirty, target_rate_hz=30.0)[0] == (1, (0, 2))
    assert targets(thirty, source_offsets=(-1,))[0] == (3, (0,))
    assert targets(thirty, source_offsets=(1, 2))[-1] == (5, (8, 11))
    slow = blank(tmp_path / "slow", np.arange(4) * 1e9 / 2)
    assert targets(slow) == [(1, (0, 2)), (2, (1, 3))]


def test_no_target_reaches_across_a_gap(tmp_path):
    stamps = np.concatenate((np.arange(4), 30 + np.arange(4))) * 1e8
    assert [t for t, _ in targets(blank(tmp_path / "a", stamps))] == [1, 2, 5, 6]
    jumps_back = np.concatenate((np.arange(4), np.arange(4))) * 1e8
    assert [t for t, _ in targets(blank(tmp_path / "b", jumps_back))] == [1, 2, 5, 6]


def test_a_lost_frame_costs_no_more_than_its_neighbours(tmp_path):
    """At 30 Hz brought down to 10, one lost frame makes a step of a third more, which is fine."""
    stamps = np.delete(np.arange(13), 6) * 1e9 / 30
    assert len(targets(blank(tmp_path / "a", stamps))) == 6


def test_frames_not_to_be_kept_are_no_targets(tmp_path):
    keep = [True, True, False, True, True, True]
    kept = blank(tmp_path / "a", np.arange(6) * 1e8, keep=keep)
    assert [t for t, _ in targets(kept)] == [1, 3, 4]
