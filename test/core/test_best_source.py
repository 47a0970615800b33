"""Losses of residual_motion by the best source, on a wall that is known."""

from dataclasses import replace

import pytest
import torch
from scenes import camera, drive, write_recording
from test_residual_motion import descend
from tiny import FOCAL, tiny_config

from dyndepth_core.data.recording import Recording
from dyndepth_core.data.sample import Sample, SampleSource
from dyndepth_core.losses.motion import group_smoothness, half_norm_sparsity, normalise_residual
from dyndepth_core.methods.residual_motion.best_source import best_source_losses
from dyndepth_core.methods.residual_motion.config import ResidualMotionConfig


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "drive"
    write_recording(path, drive(6, sway=0.0), camera(FOCAL))
    data = tiny_config({"source_offsets": (1,)}).data
    return SampleSource([Recording(path)], data, 2, 0, False).batch(0)


def sideways(sample, shown=4.0, said=6.0):
    """Losses of best_source_losses on a wall 5 m ahead that moves by `shown` pixels, where
    ego-motion says `said`, by progress, depth and the depth of src.
    """
    height, width = sample.tgt.shape[-2:]
    src = sample.tgt.roll(int(shown), -1)[:, None]
    same = replace(sample, src=src, K=camera(FOCAL, (height, width), 2).float())
    T = torch.eye(4).repeat(2, 1, 1, 1)
    T[:, 0, 0, 3] = said * 5 / FOCAL
    config = ResidualMotionConfig(pyramid=1, burn_in=(0.15, 0.3))

    def losses(progress, depth, src_depth, residual, moving=None, taught=None):
        return best_source_losses(
            config, same, depth, src_depth, T, T, residual, moving, same.K, progress, False, taught
        )

    return losses


def test_depth_does_not_learn_to_explain_what_moves(sample):
    """Once residuals are grown, pixels they explain better than ego-motion give depth no gradient;
    residuals never do.
    """
    height, width = sample.tgt.shape[-2:]
    depth = torch.full((2, 1, height, width), 5.0, requires_grad=True)
    residual = torch.zeros(2, 3, height, width)
    residual[:, 0, :, : width // 2] = -2 * 5 / FOCAL  # takes back what ego-motion says too much
    residual.requires_grad_()
    losses = sideways(sample)

    def gradients(progress):
        found = losses(progress, depth, depth.detach(), residual)
        parts = found.terms["static"], found.terms["motion"]
        return [
            torch.autograd.grad(part, (depth, residual), allow_unused=True) for part in parts
        ], found.maps["automask"]

    ((early, none), (nothing, moved)), _ = gradients(0.25)
    assert none is None and nothing is None and moved.abs().sum() > 0
    ((late, _), _), mask = gradients(0.5)
    inner, outer = slice(12, width // 2 - 12), slice(width // 2 + 12, width - 12)
    assert (mask[..., inner] == 0).float().mean() > 0.8 and mask[..., outer].mean() > 0.3
    assert early[..., inner].abs().sum() > 0 < late[..., outer].abs().sum()
    assert late[..., inner].abs().sum() <= 0.2 * early[..., inner].abs().sum()


def test_where_the_depths_disagree_images_count_less(sample):
    """D_diff of 5 and 10 m is 1/3: so much of the photometric error is not counted, and 0.5 times
    it is the price.
    """
    height, width = sample.tgt.shape[-2:]
    near, far, none = torch.full((3, 2, 1, height, width), 5.0) * torch.tensor(
        [1.0, 2.0, 0.0]
    ).view(3, 1, 1, 1, 1)
    losses = sideways(sample)
    agreed, other = (losses(0.0, near, d, none.repeat(1, 3, 1, 1)).terms for d in (near, far))
    assert agreed["static"] > 0 and agreed["depth"] < 1e-6  # rounding of the interpolation
    torch.testing.assert_close(other["static"], agreed["static"] * 2 / 3)
    torch.testing.assert_close(other["depth"], torch.tensor(0.5 / 3))
    assert "motion" not in agreed  # until residuals begin to grow


def test_what_something_else_teaches_is_not_learned_from_images(sample):
    """Half as sure, half as much; until the residuals are grown the labels say nothing."""
    height, width = sample.tgt.shape[-2:]
    depth, none = torch.full((2, 1, height, width), 5.0), torch.zeros(2, 3, height, width)
    sure = torch.zeros_like(depth)
    sure[..., : width // 2], sure[..., width // 2 :] = 1.0, 0.5
    losses = sideways(sample)
    early, late = (losses(p, depth, depth, none, taught=sure).maps for p in (0.25, 0.5))
    plain = losses(0.5, depth, depth, none).maps
    assert plain["automask"].sum() > 0
    torch.testing.assert_close(late["automask"], (1 - sure) * plain["automask"])
    torch.testing.assert_close(early["automask"], losses(0.25, depth, depth, none).maps["automask"])


def test_the_best_source_drives_the_residual_to_the_true_translation_of_a_box():
    """With the regularisers of the method; depth then learns nothing where the box is."""
    config, maps = ResidualMotionConfig(), {}
    known, which = torch.ones(2, dtype=torch.bool), torch.arange(2)

    def loss(ways):
        a, src, T = ways.image_a, ways.image_b[:, None], ways.T_b_a[:, None]
        dt = torch.tensor([[0.1], [-0.1]])
        pairs = Sample(a, src, a, src, ways.K, known, dt, which, ~known, which)
        found = best_source_losses(
            config, pairs, ways.depth_a, ways.back(ways.depth_a), T, T, ways.residual, None,
            ways.K, 1.0, False,
        )  # fmt: skip
        maps.update(found.maps)
        Q = normalise_residual(ways.residual, ways.translation())
        regular = config.motion_smoothness * group_smoothness(Q)
        return found.total + regular + config.motion_sparsity * half_norm_sparsity(Q)

    inner = descend(loss)
    assert (maps["silent"] == 1)[inner].float().mean() > 0.9
