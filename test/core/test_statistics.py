"""Paired intervals: known ratios, honest width under correlation, determinism."""

import numpy as np
import pytest

from dyndepth_core.evaluation.metrics import ImageScore
from dyndepth_core.evaluation.statistics import block_ids, compare_scores, paired_log_ratio


def test_a_constant_ratio_is_certain():
    b = np.linspace(0.1, 2.0, 20)
    found = paired_log_ratio(0.8 * b, b, list(range(20)))
    assert (found.ratio, found.low, found.high) == pytest.approx((0.8, 0.8, 0.8))
    assert found.verdict == "better" and found.images == found.blocks == 20
    assert paired_log_ratio(b, 0.8 * b, list(range(20))).verdict == "worse"


def test_the_ratio_is_the_geometric_mean():
    found = paired_log_ratio([1.0, 4.0], [1.0, 1.0], [0, 1])
    assert found.ratio == pytest.approx(2.0)
    assert found.low == pytest.approx(1.0) and found.high == pytest.approx(4.0)
    assert found.verdict == "too few blocks"
    assert paired_log_ratio([1.0] * 4, [2.0] * 4, list(range(4))).verdict == "too few blocks"


def noisy(seed, blocks, repeats):
    """Errors whose luck is per block: `repeats` frames of a block say the same thing."""
    luck = np.random.default_rng(seed).normal(0, 0.3, blocks)
    return np.exp(np.repeat(luck, repeats)), np.ones(blocks * repeats)


def test_repeated_frames_do_not_fake_certainty():
    a, b = noisy(1, 12, 30)
    single = paired_log_ratio(a[::30], b[::30], list(range(12)))
    blocks = paired_log_ratio(a, b, list(np.repeat(np.arange(12), 30)))
    naive = paired_log_ratio(a, b, list(range(len(a))))
    width = np.log(blocks.high / blocks.low)
    assert width == pytest.approx(np.log(single.high / single.low), rel=0.05)
    assert np.log(naive.high / naive.low) < 0.3 * width


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(100):
        a, b = noisy(seed, 25, 4)
        found = paired_log_ratio(a, b, list(np.repeat(np.arange(25), 4)))
        covered += found.low <= 1.0 <= found.high
    assert 85 <= covered <= 99  # the percentile bootstrap is a little narrow at 25 blocks


def test_luck_of_a_training_widens_the_interval_by_as_much_as_it_should():
    """Five trainings on one world, each with a luck of its own beside that of the clips."""
    covered = {True: 0, False: 0}
    clips = [k for _ in range(5) for k in range(25)]
    for seed in range(100):
        random = np.random.default_rng(seed)
        luck = np.repeat(random.normal(0, 0.2, 5), 25) + np.tile(random.normal(0, 0.1, 25), 5)
        for known in covered:
            trainings = [(0, k // 25 if known else 0) for k in range(125)]
            found = paired_log_ratio(np.exp(luck), np.ones(125), clips, 0, trainings)
            covered[known] += found.low <= 1.0 <= found.high
    assert covered[True] >= 90 and covered[False] < 60


def test_trainings_are_drawn_within_their_world():
    """Two worlds that differ, each trained twice with one outcome: nothing was luck."""
    worlds, clips = np.repeat([1.0, 4.0], 20), [f"{w} {c}" for w in "ab" for c in [*range(10)] * 2]
    trainings = [(w, r) for w in "ab" for r in (0, 1) for _ in range(10)]
    alone = paired_log_ratio(worlds, np.ones(40), clips)
    found = paired_log_ratio(worlds, np.ones(40), clips, 0, trainings)
    assert found.ratio == pytest.approx(2.0) and found.blocks == 20 and found.images == 40
    wider = 4.303 / 1.960  # Student's t of two degrees of freedom over the normal distribution
    for end in ("low", "high"):
        known, unsure = (np.log(getattr(x, end) / 2) for x in (alone, found))
        assert unsure == pytest.approx(wider * known, rel=1e-3)


def test_the_same_seed_gives_the_same_interval():
    a, b = noisy(3, 10, 2)
    blocks = list(np.repeat(np.arange(10), 2))
    assert paired_log_ratio(a, b, blocks, 5) == paired_log_ratio(a, b, blocks, 5)
    assert paired_log_ratio(a, b, blocks, 5).low != paired_log_ratio(a, b, blocks, 6).low


def test_one_block_has_no_interval():
    found = paired_log_ratio([1.0, 2.0], [2.0, 2.0], ["clip", "clip"])
    assert found.low is None and found.high is None and found.verdict == "too few blocks"


@pytest.mark.parametrize("a,b", [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([np.nan], [1.0])])
def test_bad_errors_are_refused(a, b):
    with pytest.raises(ValueError, match="paired comparison"):
        paired_log_ratio(a, b, list(range(len(a))))


def image(clip, index, error, pixels=500, stratum="all"):
    return ImageScore(
        clip, index, index * 10**8, 1.0, {stratum: pixels}, {stratum: {"abs_rel": error}}
    )


def test_few_clips_are_cut_into_time_blocks_many_are_blocks_themselves():
    one = [image("a", k, 0.1) for k in range(45)]  # 4.5 s at 10 Hz
    assert [len([b for b in block_ids(one) if b == x]) for x in sorted(set(block_ids(one)))] == [
        20,
        20,
        5,
    ]
    many = [image(f"clip{k}", i, 0.1) for k in range(10) for i in range(45)]
    assert len(set(block_ids(many))) == 10


def test_only_common_images_with_enough_pixels_are_compared():
    a = [image("a", k, 0.2) for k in range(110)] + [image("a", 110, 9.0, pixels=99)]
    b = [image("a", k, 0.4) for k in range(10, 120)]
    found = compare_scores(a, b)
    assert set(found) == {"all"}
    assert found["all"]["ratio"] == pytest.approx(0.5)
    assert found["all"]["images"] == 100 and found["all"]["verdict"] == "better"
