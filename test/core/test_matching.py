"""Instances of two images are matched by their masks."""

import itertools

import numpy as np
import torch

from dyndepth_core.instances.matching import boxes, dice_costs, match, relabel


def test_costs_are_plain_dice():
    a, b = torch.zeros(2, 4, 6, dtype=torch.long), torch.zeros(2, 4, 6, dtype=torch.long)
    a[0, :2, :2], b[0, :2, 1:3] = 1, 2  # 4 and 4 pixels, 2 in common
    costs = dice_costs(a, b, 2)
    assert costs[0, 0].tolist() == [1.0, 0.5] and costs[0, 1].tolist() == [1.0, 1.0]
    assert (costs[1] == 1).all()


def test_the_assignment_costs_least_of_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        costs = torch.tensor(rng.random((1, 4, 4)))
        partners = match(costs, 2.0)[0, 1:] - 1
        found = costs[0, range(4), partners].sum()
        best = min(costs[0, range(4), list(p)].sum() for p in itertools.permutations(range(4)))
        assert torch.isclose(found, best)


def test_a_gate_leaves_partners_out_and_takes_none_from_others():
    # the least sum pairs 1-1 (0.4) and 2-2 (0.95); 2-2 is no pair, and 1 keeps its own
    costs = torch.tensor([[[0.4, 0.45], [1.0, 0.95]]])
    assert match(costs, 0.9).tolist() == [[0, 1, 0]]
    assert match(costs, 0.3).tolist() == [[0, 0, 0]]
    assert match(torch.zeros(2, 0, 0), 0.9).tolist() == [[0], [0]]


def test_boxes_are_those_of_the_outermost_pixels():
    ids = torch.zeros(1, 8, 9, dtype=torch.long)
    ids[0, 2:5, 3:7], ids[0, 7, 0] = 1, 3
    found, pixels = boxes(ids, 3)
    assert found[0, 1].tolist() == [3, 2, 6, 4] and found[0, 3].tolist() == [0, 7, 0, 7]
    assert found[0, 2].tolist() == [0, 0, 0, 0] and pixels[0].tolist() == [59, 12, 0, 1]


def test_ids_get_the_names_of_their_partners():
    ids = torch.tensor([[[0, 1], [2, 1]]])
    assert relabel(ids, torch.tensor([[0, 5, 0]])).tolist() == [[[0, 5], [0, 5]]]
