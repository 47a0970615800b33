"""Training objective: many_depth on sources in which what moves stands still."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from dyndepth_core.data.sample import Sample
from dyndepth_core.methods.dynamic_depth.domd import domd
from dyndepth_core.methods.many_depth.config import ManyDepthConfig
from dyndepth_core.methods.many_depth.graph import ManyDepthGraph
from dyndepth_core.methods.many_depth.objective import ManyDepthObjective
from dyndepth_core.methods.many_depth.predictions import Sources, draw_augmentation
from dyndepth_core.methods.masks import MaskConfig


class DynamicDepthConfig(ManyDepthConfig):
    """Loss of the dynamic_depth method; the teacher has that of monodepth, on the images as they
    are. As published: plain_share=0, from a many_depth model with train.lr=1e-5.
    """

    masks: MaskConfig = Field(default_factory=MaskConfig)
    plain_share: float = Field(
        0.5, ge=0, le=1,
        description="share of samples whose cost volume sees moving objects as they are: so it is "
        "on the vehicle, where nobody gives masks",
    )  # fmt: skip


class DynamicDepthGraph(ManyDepthGraph):
    """That of many_depth: the vehicle needs no masks."""

    method = "dynamic_depth"


class DynamicDepthObjective(ManyDepthObjective):
    """Feng et al., ECCV 2022: cost volume and loss of the student see I^d_s, the sources in which
    the objects of tgt are where the teacher's depth and the ego-motion would have them (domd.py),
    and take no part where nobody knows what is there.

    An object's depth then agrees with the images if it is that of the teacher: the objects are
    learned from it, not from a parallax that their motion feigns. Samples without masks are those
    of many_depth, those of the validation as well.
    """

    graph_class = DynamicDepthGraph
    config: DynamicDepthConfig

    @torch.no_grad()
    def sources(self, sample: Sample, depth: Tensor, T_src_tgt: Tensor, K: Tensor) -> Sources:
        """See ManyDepthObjective."""
        ids = sample.instances
        if ids is None or not ids.any():
            return super().sources(sample, depth, T_src_tgt, K)
        tgt = torch.cat((sample.tgt, sample.tgt_net), 1)  # one geometry for both
        objects = ids[:, :, None] > 0
        found = [
            domd(
                tgt, objects[:, 0], torch.cat((sample.src[:, s], sample.src_net[:, s]), 1),
                objects[:, 1 + s], depth.float(), T_src_tgt[:, s].float(), K.float(),
            )
            for s in range(sample.src.shape[1])
        ]  # fmt: skip
        images, net = torch.stack([image for image, _ in found], 1).split(3, 2)
        valid = torch.stack([v for _, v in found], 1)
        plain = self.plain(sample.index).view(-1, 1, 1, 1, 1)
        net = torch.where(plain, sample.src_net, net)
        return Sources(images, net, valid, valid | plain)

    def plain(self, index: Tensor) -> Tensor:
        """(B,) bool: samples whose volume sees the sources as they are; see `augmentation`."""
        return draw_augmentation(index, self.config.plain_share, 0.0)[0]
