"""Monodepth learns: depth from known motion, motion from known depth, and both along one curve."""

import numpy as np
import pytest
import torch
from scenes import camera, drive, write_recording
from tiny import FOCAL, tiny_config, tiny_objective, truth

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import SampleSource

POSES = drive(12, sway=0.0)
# A deliberate change of networks or loss moves it: copy the new numbers from the failure, and say
# why in the commit.
CURVE = [
    0.0468, 0.0495, 0.0590, 0.0452, 0.0549, 0.0387, 0.0574, 0.0531, 0.0465, 0.0453,
    0.0483, 0.0392, 0.0432, 0.0440, 0.0410, 0.0392, 0.0415, 0.0410, 0.0333, 0.0324,
]  # fmt: skip


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, POSES, camera(FOCAL))
    return Recording(path)


def train(recording, objective, optimizer, steps, known=None, progress=1.0):
    """Yields each step's batch, truth, predictions and terms; `known` is taken from the truth."""
    objective.train()
    source = SampleSource([recording], tiny_config().data, 4, 0)
    for step in range(steps):
        torch.manual_seed(step)
        batch = source.batch(step)
        right, found = truth(objective, batch, recording, POSES), objective.predict(batch, progress)
        if known:
            setattr(found, known, getattr(right, known))
        terms = objective.losses(batch, found, progress)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        yield batch, right, found, terms


def test_depth_is_learned_from_the_motion_of_the_camera(recording):
    """From scratch and in metres: the box comes out near, the wall far."""
    objective = tiny_objective()
    optimizer = torch.optim.Adam(objective.depth_net.parameters(), lr=2e-3)
    losses, errors, ratios = [], [], []
    for batch, _, _, terms in train(recording, objective, optimizer, 60, "T_src_tgt"):
        true = torch.tensor(np.stack([recording.depth(int(i) + 1) for i in batch.index]))[:, None]
        depth = terms.maps["depth"]
        losses.append(terms.terms["photometric"].item())
        errors.append(((depth - true).abs() / true).mean().item())
        ratios.append((depth[true < 5.5].median() / depth[true > 11].median()).item())
    assert np.mean(losses[-10:]) < 0.65 * np.mean(losses[:3])
    assert errors[0] > 0.4 and np.mean(errors[-10:]) < 0.3
    assert ratios[0] > 0.9 and np.mean(ratios[-10:]) < 0.6


def test_motion_is_learned_from_depth(recording):
    objective = tiny_objective()
    optimizer = torch.optim.Adam(objective.pose_net.parameters(), lr=1e-3)
    losses, errors = [], []
    for _, right, found, terms in train(recording, objective, optimizer, 60, "disps"):
        true, t = right.T_src_tgt[..., :3, 3], found.T_src_tgt[..., :3, 3]
        losses.append(terms.terms["photometric"].item())
        errors.append(((t - true).norm(dim=-1) / true.norm(dim=-1)).mean().item())
    assert np.mean(losses[-10:]) < 0.4 * np.mean(losses[:3])
    assert errors[0] > 0.8 and np.mean(errors[-10:]) < 0.5


def test_the_first_twenty_losses_are_these(recording):
    """Weights from numpy and a small SGD step: Adam's first steps amplify what rounding makes of
    tiny gradients, and torch's normal numbers depend on the processor.
    """
    objective, rng = tiny_objective(), np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in objective.named_parameters():
            if weight.dim() == 4:
                spread = (3 * weight[0].numel()) ** -0.5
                weight.copy_(torch.from_numpy(rng.normal(0, spread, weight.shape)))
            elif name.endswith("bias"):
                weight.zero_()
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.005, momentum=0.9)
    losses = [t.total.item() for *_, t in train(recording, objective, optimizer, 20)]
    np.testing.assert_allclose(losses, CURVE, rtol=0.01)
