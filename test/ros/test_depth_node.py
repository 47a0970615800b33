"""One running depth_node, everything a camera can send it: real process, real DDS."""

import array
import struct

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
from node_harness import OUTPUTS, Camera, K, NodeProcess, picture, rgb_message  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from dyndepth_core.inference.predictor import Predictor  # noqa: E402
from dyndepth_ros.conversions import camera_info_message, image_to_array, stamp_ns  # noqa: E402

ALL = tuple(OUTPUTS)


@pytest.fixture(scope="module")
def node(module_domain_id, model_file, tmp_path_factory):
    process = NodeProcess(tmp_path_factory.mktemp("node"), f"model:={model_file}", "threads:=1")
    yield process
    try:
        assert process.running, process.log
        assert process.interrupt(times=2) == 0, process.log
        assert "Traceback" not in process.log
    finally:
        process.kill()


@pytest.fixture(scope="module")
def camera(node, module_domain_id):
    camera = Camera(module_domain_id)
    yield camera
    camera.close()


@pytest.fixture(scope="module")
def predictor(model_file):
    return Predictor(model_file, device="cpu")


def close_to(depth: np.ndarray, expected: np.ndarray) -> bool:
    """Same depth but for the last bits of the convolutions."""
    return depth.shape == expected.shape and np.allclose(depth, expected, 1e-3, equal_nan=True)


def test_outputs_of_one_frame_belong_together(camera, predictor):
    image = picture()
    got = camera.ask(rgb_message(image), outputs=ALL)
    headers = {(stamp_ns(m.header.stamp), m.header.frame_id) for m in got.values()}
    assert len(headers) == 1 and headers.pop()[1] == "camera_optical_frame"
    expected = predictor(image, K)
    depth = image_to_array(got["depth"])
    assert got["depth"].encoding == "32FC1" and close_to(depth, expected.depth)
    info = got["camera_info"]
    assert (info.height, info.width) == depth.shape == (64, 96)
    assert np.allclose(np.reshape(info.k, (3, 3)), expected.K)
    assert np.allclose(np.reshape(info.p, (3, 4))[:, :3], expected.K)
    color = image_to_array(got["color"])
    assert got["color"].encoding == "rgb8" and color.shape == (64, 96, 3) and color.std() > 0
    cloud = got["points"]
    assert (cloud.height, cloud.width, cloud.point_step) == (64, 96, 16) and not cloud.is_dense
    fx, fy, cx, cy = info.k[0], info.k[4], info.k[2], info.k[5]
    for v, u in ((0, 0), (63, 95), (20, 40)):
        x, y, z = struct.unpack_from("<fff", cloud.data, v * cloud.row_step + u * 16)
        ray = np.array([(u - cx) / fx, (v - cy) / fy, 1])
        assert np.allclose((x, y, z), depth[v, u] * ray, 1e-4)
    values = {pair.key: pair.value for pair in got["scale"].status[0].values}
    assert values == {"value": "1.0", "variance": "inf", "source": "relative"}


def padded(image: np.ndarray, encoding: str, pad: int) -> Image:
    rows = np.pad(image.reshape(len(image), -1), ((0, 0), (0, pad)), constant_values=77)
    return Image(
        height=image.shape[0], width=image.shape[1], encoding=encoding, step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["bgr8 padded", "rgba8", "mono8", "mono16 big endian", "odd size"])
def test_raw_encodings(camera, predictor, kind):
    image = picture(83, 121) if kind == "odd size" else picture()
    if kind == "bgr8 padded":
        msg = padded(image[..., ::-1], "bgr8", 24)
    elif kind == "rgba8":
        msg = padded(np.dstack([image, image[..., :1]]), "rgba8", 0)
    elif kind == "odd size":
        msg = padded(image, "rgb8", 1)
    else:
        grey = np.ascontiguousarray(image[..., 0])
        image = np.dstack([grey] * 3)
        wide = (grey.astype(np.uint16) * 257).astype(">u2").view(np.uint8)
        msg = padded(grey, "mono8", 7) if kind == "mono8" else padded(wide, "mono16", 2)
        msg.width, msg.is_bigendian = grey.shape[1], int("big" in kind)
    depth = image_to_array(camera.ask(msg)["depth"])
    assert close_to(depth, predictor(image, K).depth)


@pytest.mark.parametrize("encoding", ["bayer_grbg8", "yuv422", "yuv422_yuy2"])
def test_raw_encodings_that_lose_colour_detail(camera, encoding):
    grey = np.full((84, 120), 130, np.uint8)
    data = grey if encoding.startswith("bayer") else np.dstack([grey, grey])
    assert image_to_array(camera.ask(padded(data, encoding, 0))["depth"]).shape == (64, 96)


def test_lens_distortion_is_removed(camera, predictor):
    """The node answers as the model does to the undistorted image, with the K of that image."""
    from dyndepth_core.data.rectify import Rectifier, calibration_from_info

    image = picture()
    for model, d in (
        ("plumb_bob", [-0.2, 0.05, 0.001, -0.001, 0.0]),
        ("rational_polynomial", [-0.2, 0.05, 0.0, 0.0, 0.01, 0.1, 0.02, 0.0]),
        ("equidistant", [0.05, -0.01, 0.0, 0.0]),
    ):
        info = camera_info_message(Header(), K, image.shape[:2])
        info.distortion_model, info.d = model, d
        rectifier = Rectifier(calibration_from_info(info, image.shape[:2]))
        got = camera.ask(rgb_message(image), info=info, outputs=("depth", "camera_info"))
        expected = predictor(rectifier.image(image), rectifier.K)
        assert close_to(image_to_array(got["depth"]), expected.depth)
        assert np.allclose(np.reshape(got["camera_info"].k, (3, 3)), expected.K)


def test_region_and_binning_move_K(camera):
    """A region that starts at (16, 8), binned by 2, sees the same rays as the full sensor."""
    info = camera_info_message(Header(), K, (84, 120))
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 16, 8, 80, 60
    info.binning_x = info.binning_y = 2
    camera.set(output_size="input")
    try:
        got = camera.ask(rgb_message(picture(30, 40)), info=info, outputs=("camera_info",))
    finally:
        camera.set(output_size="model")
    k = got["camera_info"].k
    assert (k[0], k[2], k[5]) == pytest.approx(
        (45, (60.2 - 16 + 0.5) / 2 - 0.5, (41.7 - 7.5) / 2 - 0.5)
    )


def test_parameters_change_what_is_published(camera, predictor):
    image = picture()
    try:
        assert camera.set(output_size="input")[0].successful
        got = camera.ask(rgb_message(image), outputs=("depth", "camera_info", "points"))
        assert image_to_array(got["depth"]).shape == (84, 120)
        assert np.allclose(np.reshape(got["camera_info"].k, (3, 3)), K)
        assert (got["points"].height, got["points"].width) == (84, 120)
        metres = predictor(image, K, output_size="input").depth
        limit = float(np.nanmedian(metres))
        assert camera.set(depth_encoding="16UC1")[0].successful
        millimetres = image_to_array(camera.ask(rgb_message(image))["depth"])
        shown = np.isfinite(metres)
        assert np.abs(millimetres[shown] / 1000 - metres[shown]).max() <= 0.02
        assert (millimetres[~shown] == 0).all()
        camera.set(depth_encoding="32FC1", max_range=limit)
        got = camera.ask(rgb_message(image), outputs=("depth", "points"))
        depth = image_to_array(got["depth"])
        assert np.isposinf(depth).mean() == pytest.approx((metres > limit).mean(), abs=0.01)
        points = np.frombuffer(got["points"].data, np.float32).reshape(84, 120, 4)
        assert np.array_equal(np.isnan(points[..., 2]), ~np.isfinite(depth))
    finally:
        camera.set(output_size="model", depth_encoding="32FC1", max_range=80.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "gpu"}, "device.*auto, cpu, cuda"),
        ({"max_range": -1.0}, "max_range.*out of range"),
        ({"max_range": "far"}, "max_range is 'far'.*number"),
        ({"depth_encoding": "8UC1"}, "depth_encoding.*32FC1"),
        ({"color_far": 1.0}, "color_near 4 must be less than color_far 1"),
        ({"image_transport": "raw"}, "read-only"),
    ],
)
def test_bad_parameter_is_rejected_with_the_reason(camera, change, reason):
    import re

    result = camera.set(**change)[0]
    assert not result.successful and re.search(reason, result.reason), result.reason


def test_whole_numbers_do_for_lengths_and_changes_are_logged(camera, node):
    """`ros2 param set /depth_node max_range 40` sends an integer."""
    try:
        assert camera.set(max_range=40)[0].successful
        node.wait_for("max_range is now 40.0")
        assert camera.set(device="cpu")[0].successful
        node.wait_for("device is now 'cpu', which counts from the next ~/reload_model")
    finally:
        camera.set(max_range=80.0, device="auto")


def test_size_and_K_may_change_at_any_time(camera, node, predictor):
    for size, matrix in (((84, 120), K), ((60, 100), K), ((60, 100), K * [[2], [2], [1]])):
        image = picture(*size)
        got = camera.ask(rgb_message(image), K=matrix, outputs=("depth", "camera_info"))
        expected = predictor(image, matrix)
        assert close_to(image_to_array(got["depth"]), expected.depth)
        assert np.allclose(np.reshape(got["camera_info"].k, (3, 3)), expected.K)
    node.wait_for("image size changed from .* history reset")
    node.wait_for("K changed: history reset")


def test_bag_that_starts_over(camera, node):
    camera.ask(rgb_message(picture()))
    warnings, back = node.count("jumped back"), camera._stamp - 7_000_000_000
    camera.got["depth"].clear()
    info = camera_info_message(Header(), K, (84, 120))

    def of_the_second_run() -> bool:  # a late answer of the first may come between
        stamps = [stamp_ns(m.header.stamp) for m in camera.got["depth"]]
        return any(stamp < back + 2_000_000_000 for stamp in stamps)

    for i in range(20):
        camera.send(rgb_message(picture()), info, stamp=back + i * 50_000_000)
        if camera.spin_until(of_the_second_run, 0.5):
            break
    assert of_the_second_run()
    node.wait_for("jumped back by .*history reset", count=warnings + 1)
    camera._stamp = back + 8_000_000_000


def bad_frames() -> dict[str, tuple[Image, str]]:
    good = rgb_message(picture())
    cut = Image(encoding="rgb8", height=84, width=120, step=360, data=good.data[:999])
    wrong = padded(picture(), "jellyfish", 0)
    depth = Image(encoding="32FC1", height=1, width=1, step=4, data=array.array("B", bytes(4)))
    return {
        "empty": (Image(encoding="rgb8"), "at least one pixel"),
        "truncated": (cut, "truncated"),
        "unknown encoding": (wrong, "encoding 'jellyfish'"),
        "depth": (depth, "is that of a depth image"),
    }


@pytest.mark.parametrize("kind", list(bad_frames()))
def test_frames_that_are_no_image_cost_one_warning(camera, node, kind):
    msg, reason = bad_frames()[kind]
    for _ in range(3):
        camera.send(msg, None)
        camera.spin_until(lambda: False, 0.1)
    line = node.wait_for(f"frame skipped, history reset: .*{reason}")
    assert "WARN" in line
    camera.ask(rgb_message(picture()))
    assert node.count(reason) == 1


@pytest.mark.parametrize(
    ("name", "reason"), [("NaN", "NaN or infinity"), ("negative", "must be positive")]
)
def test_bad_K_is_refused(camera, node, name, reason):
    info = camera_info_message(Header(), K, (84, 120))
    info.k[0] = float("nan") if name == "NaN" else -5.0
    camera.settle()
    camera.got["depth"].clear()
    stamps = set()
    for _ in range(3):
        stamps.add(camera.send(rgb_message(picture()), info))
        camera.spin_until(lambda: False, 0.1)
    camera.settle()
    # The image may overtake its camera_info once; never later.
    late = [m for m in camera.got["depth"] if stamp_ns(m.header.stamp) in sorted(stamps)[1:]]
    assert not late
    assert camera.status()[1]["calibration"] == "unusable"
    if name == "NaN":
        said = f"WARN.*camera_info /camera_info: .*{reason}"
        for _ in range(120):  # what no depth can be made of is said once in 10 s
            if node.count(said):
                break
            camera.send(rgb_message(picture()), info)
            camera.spin_until(lambda: False, 0.1)
        node.wait_for(said)
    camera.ask(rgb_message(picture()))


def test_compressed_images_are_followed_when_only_they_are_published(camera, node, predictor):
    image = picture()
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    png = cv2.imencode(".png", bgr)[1].tobytes()
    got = camera.ask(CompressedImage(format="rgb8; png compressed bgr8", data=png))
    assert close_to(image_to_array(got["depth"]), predictor(image, K).depth)
    jpeg = cv2.imencode(".jpg", bgr)[1].tobytes()
    for _ in range(3):
        camera.send(CompressedImage(format="jpeg", data=jpeg[: len(jpeg) // 2]), None)
        camera.spin_until(lambda: False, 0.1)
    node.wait_for("frame skipped, history reset: compressed image .* truncated")
    camera.ask(CompressedImage(format="jpeg", data=jpeg))
    camera.ask(rgb_message(image))  # and back to raw
