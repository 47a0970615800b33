"""Running batch statistics in the course of a training."""

import pytest
from torch import nn
from training_helpers import ToyObjective, make_recording, settings, source

from dyndepth_core.training.fit import fit
from dyndepth_core.training.schedule import BatchStatistics


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("recordings"))


def test_batch_statistics_are_of_more_steps_as_the_learning_rate_falls():
    """Halfway down the cosine the momentum is half; in the warm-up whole; in the end a tenth."""
    norms = nn.Sequential(nn.BatchNorm2d(2, momentum=0.2), nn.BatchNorm2d(2, momentum=None))
    statistics, found = BatchStatistics(norms), []
    config = settings(warmup=0.2, final_lr=0.01, lr=3.0)
    for progress in (0.0, 0.1, 0.2, 0.6, 1.0):
        statistics.follow(config, progress)
        found.append(norms[0].momentum)
    assert found == pytest.approx([0.2, 0.2, 0.2, 0.101, 0.02])
    statistics.restore()
    assert norms[0].momentum == 0.2 and norms[1].momentum is None


def test_a_training_lowers_the_momentum_and_gives_it_back(tmp_path, root):
    objective, seen = ToyObjective(), []
    objective.unused = nn.BatchNorm2d(3)
    predict = objective.predict
    objective.predict = lambda *a: seen.append(objective.unused.momentum) or predict(*a)
    fit(objective, settings(), source(root), None, tmp_path)
    assert seen[0] == 0.1 and seen == sorted(seen, reverse=True) and seen[-1] < 0.05
    assert objective.unused.momentum == 0.1
