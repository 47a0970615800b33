"""The real cv_bridge, where a ROS installation has one, for encodings that our own decoder lacks.

The `cv_bridge` of the Python registry is ROS 1 code (version 1.x): with numpy 2 most encodings
fail, 16UC1 is read as bytes and row padding is ignored. It is refused by its version.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from typing import Any

import numpy as np

OLDEST = (3, 0)  # cv_bridge of ROS 2: 3.x since Humble, 4.x since Jazzy; 1.x is ROS 1


def refusal(version: str) -> str | None:
    """Why a cv_bridge of this version is not used; None if it is."""
    try:
        parts = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:
        return f"cv_bridge has no readable version ('{version}')"
    if parts < OLDEST:
        return (
            f"cv_bridge {version} is ROS 1 code from the Python registry and decodes wrongly; "
            "uninstall it (pip uninstall cv_bridge) and install ros-$ROS_DISTRO-cv-bridge"
        )
    return None


def installed_version() -> str | None:
    """Version of the installed cv_bridge, looked up without importing it; None if there is none."""
    for name in ("cv_bridge", "cv-bridge"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return _version_from_ament()


def _version_from_ament() -> str | None:
    """A colcon or apt install of cv_bridge has a package.xml, and often no Python metadata."""
    try:
        from ament_index_python.packages import get_package_share_path

        text = (get_package_share_path("cv_bridge") / "package.xml").read_text()
    except (ImportError, LookupError, OSError, ValueError):
        return None
    return text.partition("<version>")[2].partition("</version>")[0].strip() or None


@functools.lru_cache(maxsize=1)
def _bridge() -> tuple[Any, str]:
    """(CvBridge instance or None, why there is none); decided once per process."""
    version = installed_version()
    if version is None:
        return None, "cv_bridge of ROS 2 is not installed"
    reason = refusal(version)
    if reason is not None:
        return None, reason
    try:
        return importlib.import_module("cv_bridge").CvBridge(), ""
    except Exception as error:  # a broken binary module raises anything; ours goes on without
        return None, f"cv_bridge {version} cannot be imported ({error})"


def decode_by_bridge(msg: Any) -> np.ndarray | None:
    """RGB uint8 (H, W, 3) of an Image in an encoding that only cv_bridge knows; None without one.

    Raises ValueError, with the reason why cv_bridge is not used, when one is installed but refused,
    and when it does not know the encoding either.
    """
    bridge, reason = _bridge()
    if bridge is None:
        if installed_version() is None:
            return None
        raise ValueError(f"image encoding '{msg.encoding}' is not known here, and {reason}")
    try:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(msg, desired_encoding="rgb8"))
    except Exception as error:  # CvBridgeError, cv2.error, TypeError: all mean the same here
        raise ValueError(
            f"image encoding '{msg.encoding}' is known neither here nor to cv_bridge ({error})"
        ) from error
