"""Settings of the residual_motion method: the published losses with their effective weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from dyndepth_core.methods.depth_pose import StartConfig
from dyndepth_core.networks.depth_net import NetworkConfig

HINTS = 1.0


class ResidualNetworkConfig(NetworkConfig):
    """With the motion network; the paper's networks: depth_head=softplus motion_net=published
    motion_width=1.
    """

    depth_head: Literal["disp", "softplus"] = Field(
        "disp",
        description="disp: the encoder and decoder of the other methods; softplus: the paper's "
        "ResNet-18 with randomized layer normalisation, from scratch, `width` times its channels",
    )
    motion_net: Literal["pose", "published"] = Field(
        "pose",
        description="pose: residuals are refined from the feature maps of the pose network that "
        "the other methods have; published: the paper's network, from scratch",
    )
    motion_width: float = Field(
        0.25, gt=0, le=2, description="channel factor of the refinements; published: of everything"
    )
    motion_depth: bool = Field(True, description="the motion network also sees the depths")
    motion_flow: bool = Field(
        True,
        description="pose: it also sees, by optical flow, what ego-motion leaves unexplained, and "
        "learns from it what moves at all",
    )

    @model_validator(mode="after")
    def _weights_are_used(self) -> ResidualNetworkConfig:
        if self.weights and self.depth_head == "softplus" and self.motion_net == "published":
            raise ValueError(
                f"weights {self.weights}: both networks of the paper start from nothing; leave it "
                "out, or take depth_head=disp or motion_net=pose, whose encoders have such weights"
            )
        return self


class ResidualMotionConfig(StartConfig):
    """Weights as they take effect in the published training: its code multiplies every weight by 2
    and that of SSIM by another 0.5. The paper's losses: both_ways=true data.source_offsets=1.
    """

    both_ways: bool = Field(
        False,
        description="judge every pair both ways where it is not hidden, as published; otherwise "
        "each pixel by its best source, and depth by what ego-motion alone explains",
    )
    rgb: float = Field(2.0, ge=0, description="weight of the colour difference")
    ssim: float = Field(3.0, ge=0, description="weight of the weighted structural difference")
    depth_consistency: float = Field(
        0.0, ge=0,
        description="both_ways: weight of |depth seen - depth moved| where it is in front",
    )  # fmt: skip
    consistency: float = Field(
        0.5, ge=0,
        description="weight of the relative difference of the two depths of what stands; with "
        "both_ways there is depth_consistency",
    )  # fmt: skip
    smoothness: float = Field(
        2e-3, ge=0, description="weight of edge-aware smoothness of the inverse depth"
    )
    rotation_cycle: float = Field(
        2e-3, ge=0, description="weight of: the rotations of both ways cancel"
    )
    translation_cycle: float = Field(
        0.1, ge=0, description="weight of: the translations of both ways cancel, pixel by pixel"
    )
    motion_smoothness: float = Field(
        2.0, ge=0, description="weight of group smoothness of the residual translations"
    )
    motion_sparsity: float = Field(
        0.4, ge=0, description="weight of the sparsity of the residual translations"
    )
    sparsity_norm: Literal["half", "l1"] = Field(
        "half", description="half: L1/2, few large values rather than many small ones; or plain l1"
    )
    motion_automask: bool = Field(
        True, description="both_ways: keep residuals only where they are larger than their mean"
    )
    foreground: Literal["none", "files", "truth"] = Field(
        "none",
        description="residuals only within and near masks of what may move (paper: with mask), "
        "which only the training needs; files: instances/ of the recordings; truth: only those "
        "that dynamic/ says move, for comparison",
    )
    automask_over_batch: bool = Field(
        False, description="that mean over the whole batch (published code), not per image"
    )
    burn_in: tuple[float, float] = Field(
        (0.4, 0.45),
        description="fractions of the training between which residuals grow from nothing to full",
    )
    norm_ramp: float = Field(
        0.15, ge=0, le=1, description="fraction at which the noise of the layer norms is full"
    )
    dynamic: float = Field(
        1.0, ge=0,
        description="weight of: what moves is what the optical flow to another image says "
        "(network.motion_flow)",
    )  # fmt: skip
    hints: float = Field(
        0.0, ge=0,
        description="weight of: the depth of what stands, and the motion, are what several images "
        "show at once, found from what the model of --from says, which must know what moves; takes "
        "a third of the minutes before the training; with data.intrinsics=given and no foreground",
    )  # fmt: skip
    static_pairs: float = Field(
        0.01, ge=0, le=1,
        description="pairs whose images differ by less on average (0 to 1) teach nothing",
    )  # fmt: skip

    @classmethod
    def going_on(cls) -> dict[str, Any]:
        """See StartConfig; residuals are wanted from the beginning."""
        return {**super().going_on(), "burn_in": (0.0, 0.02), "hints": HINTS}

    def residual_share(self, progress: float) -> float:
        """Factor on the residuals, progress in [0, 1] of the training."""
        start, end = self.burn_in
        if progress >= end:
            return 1.0
        return min(max((progress - start) / max(end - start, 1e-6), 0.0), 1.0)
