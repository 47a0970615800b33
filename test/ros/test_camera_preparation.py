"""What the collecting node makes of its camera_info."""

import gc
import weakref

import numpy as np
import pytest

pytest.importorskip("rclpy")
from std_msgs.msg import Header  # noqa: E402
from test_node_parts import K, Log  # noqa: E402

from dyndepth_core.data.collect import CollectOptions  # noqa: E402
from dyndepth_ros.camera_preparation import CameraPreparation  # noqa: E402
from dyndepth_ros.conversions import camera_info_message  # noqa: E402
from dyndepth_ros.notices import Notices  # noqa: E402

SIZE = (84, 120)


def test_a_camera_that_is_refused_keeps_none_of_its_images():
    prepare = CameraPreparation(
        "/image", "/camera_info", "auto", CollectOptions(), Notices(Log()), lambda: 0.0
    )
    prepare.camera_info(camera_info_message(Header(), np.full((3, 3), np.nan), SIZE))
    images = []

    def take() -> str:
        image = np.zeros(SIZE)
        images.append(weakref.ref(image))
        try:
            prepare(image.shape, 0.0)
        except ValueError as error:
            return str(error)
        raise AssertionError("accepted")

    texts = {take() for _ in range(3)}
    gc.collect()
    assert len(texts) == 1 and not any(image() is not None for image in images)
    prepare.camera_info(camera_info_message(Header(), K, SIZE))
    assert prepare(SIZE, 0.0)[1]
