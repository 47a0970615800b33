"""In place of what the networks of mined_supervision say, which learn nothing in a test: the truth
of the street, by the images.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scenes import camera
from street import view

from dyndepth_core.evaluation import mined
from dyndepth_core.methods.base import SPEED_THRESHOLD
from dyndepth_core.methods.mined_supervision import crops, labels, masks, mining, segment
from dyndepth_core.methods.mined_supervision.objective import MinedSupervisionObjective

PERIOD = 0.1  # seconds


class PerfectScene:
    """Knows the street of `boards` seen from `poses`."""

    def __init__(self, boards, poses):
        self.boards, self.poses = boards, poses
        self.views = [view(boards, T, i) for i, T in enumerate(poses)]
        self.images = torch.cat([v[0] for v in self.views]).float()

    def frames(self, images):
        """Frame of each image (B, 3, H, W)."""
        off = (images[:, None] - self.images[None]).abs().mean((2, 3, 4))
        return off.argmin(1).tolist()

    def depth(self, scene, sample):
        """See scene.scene_depth."""
        found = [self.views[f][1] for f in self.frames(sample.tgt)]
        return torch.cat(found).float(), sample.K

    def said(self, scene, sample):
        """See mining._said."""
        rows = [self._said(f) for f in self.frames(sample.tgt)]
        velocity, depth, K, T, residual = (np.stack(x) for x in zip(*rows, strict=True))
        return velocity, depth, K, T, residual

    def _said(self, frame):
        _, depth, ids = self.views[frame]
        steps = torch.tensor([(0.0, 0.0, 0.0), *((b.step[0], 0.0, b.step[1]) for b in self.boards)])
        world = steps.double()[torch.from_numpy(ids)]
        cams_world = [torch.linalg.inv(T[0]) for T in self.poses]
        velocity = world @ cams_world[frame][:3, :3].T / PERIOD
        T, residual = [], []
        for other, way in ((frame - 1, -1), (frame + 1, 1)):
            T.append(cams_world[other] @ self.poses[frame][0])
            residual.append((way * world @ cams_world[other][:3, :3].T).permute(2, 0, 1))
        small = F.avg_pool2d(torch.stack(residual), mining.COARSE)
        return (
            velocity.float().numpy(), depth[0, 0].float().numpy(), camera()[0].numpy(),
            torch.stack(T).float().numpy(), small.half().numpy(),
        )  # fmt: skip

    def looks(self, network, image, level, road, min_area):
        """See segment.looks."""
        (frame,) = self.frames(image)
        return self.views[frame][2].astype(np.uint8)

    def put_in(self, patch):
        """patch: a pytest.MonkeyPatch."""
        for module in (masks, crops, labels, mined):
            patch.setattr(module, "scene_depth", self.depth)
        patch.setattr(masks, "looks", self.looks)
        patch.setattr(segment.SegmentObjective, "recognises", True)
        patch.setattr(mining, "_said", self.said)
        found = {SPEED_THRESHOLD: 1.0}
        patch.setattr(MinedSupervisionObjective, "thresholds", lambda self, batches: found)
