"""The Predictor's depth: true to the graph, in the right place, at the right focal length."""

import cv2
import numpy as np
import pytest
import torch
from small_model import FOCAL, SIZE, camera, picture, probe, save_small_model, small_graph

from dyndepth_core.data.transforms import plan_fit
from dyndepth_core.inference.fold import fold_batch_norm, fold_graph
from dyndepth_core.inference.model_file import ModelScale
from dyndepth_core.inference.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    path = save_small_model(tmp_path_factory.mktemp("model") / "model.safetensors")
    return Predictor(path, device="cpu")


def test_depth_is_that_of_the_saved_graph(predictor):
    image, K = picture(SIZE), camera(SIZE, FOCAL)
    prediction = predictor(image, K)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        expected = small_graph()(tensor, None, torch.tensor(K[None], dtype=torch.float32), None)[0]
    np.testing.assert_allclose(prediction.depth, expected[0, 0].numpy(), rtol=1e-4)
    assert prediction.depth.dtype == np.float32
    assert np.array_equal(prediction.image, image)
    assert np.array_equal(prediction.K, K)


def test_every_batch_norm_is_folded_and_nothing_changes(predictor):
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in predictor._graph.modules())
    graph, K = small_graph(), torch.tensor(camera(SIZE)[None], dtype=torch.float32)
    frames = torch.rand(2, 1, 3, *SIZE)
    norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in graph.modules())
    with torch.inference_mode():
        depth, _, motion, _ = graph(frames[0], frames[1], K)
        assert fold_graph(graph, SIZE, FOCAL) == norms > 30
        folded, _, folded_motion, _ = graph(frames[0], frames[1], K)
    torch.testing.assert_close(folded, depth, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded_motion, motion, rtol=1e-4, atol=1e-4)


def test_a_network_tied_to_its_size_is_folded_too():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 1, 1), torch.nn.BatchNorm2d(1)
            self.position = torch.nn.Parameter(torch.rand(1, 1, 96, 128))

        def forward(self, image, previous, K, state):
            return self.norm(self.conv(image)) + self.position, None, None, None

    assert fold_graph(Tied().eval(), (96, 128), FOCAL) == 1


def test_a_fold_that_would_change_the_output_is_undone():
    class Shared(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = torch.nn.Conv2d(3, 3, 1), torch.nn.BatchNorm2d(3)
            torch.nn.init.uniform_(self.norm.running_var, 2, 3)

        def forward(self, image):
            features = self.conv(image)
            return self.norm(features) + features  # the convolution's own output is used, too

    module, image = Shared().eval(), torch.rand(1, 3, 8, 8)
    before = module(image)
    assert fold_batch_norm(module, lambda m: m(image)) == 0
    assert torch.equal(module(image), before)
    assert isinstance(module.norm, torch.nn.BatchNorm2d)


@pytest.mark.parametrize("size", [(128, 192), (108, 192), (192, 108), (75, 300), (300, 301), SIZE])
def test_a_circle_stays_a_circle_and_K_follows(size):
    """A disc seen by the camera covers the same viewing angles in the picture beside the depth."""
    rows, cols = size
    radius = min(size) // 5
    K = camera(size, cx=cols * 0.52, cy=rows * 0.47)
    centre = (cols // 2, rows // 2)
    image = cv2.circle(np.zeros((*size, 3), np.uint8), centre, radius, (255, 255, 255), -1)
    result = probe()(image, K)
    weight = result.image[..., 0].astype(float)
    v, u = np.indices(weight.shape)

    def moments(weight, u, v, K):
        x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
        mean = [(weight * a).sum() / weight.sum() for a in (x, y)]
        return *mean, *(
            (weight * (a - m) ** 2).sum() / weight.sum() for a, m in zip((x, y), mean, strict=True)
        )

    seen = moments(weight, u, v, result.K)
    v, u = np.indices(size)
    true = moments(image[..., 0].astype(float), u, v, K)
    pixel = 1 / result.K[0, 0]
    np.testing.assert_allclose(seen[:2], true[:2], atol=0.15 * pixel)
    np.testing.assert_allclose(np.sqrt(seen[2:]), np.sqrt(true[2:]), rtol=0.05)
    widths = [np.ptp(np.nonzero(weight.max(axis) > 127)[0]) + 1 for axis in (0, 1)]
    assert abs(widths[0] - widths[1]) <= 1


@pytest.mark.parametrize("output_size", ["model", "input"])
@pytest.mark.parametrize("size", [(128, 192), (108, 192), (75, 300), (61, 93), (480, 640), SIZE])
def test_a_plane_keeps_its_place_in_space(size, output_size):
    """What the network says of a plane is true of the depth image handed out, by its own K."""
    K = camera(size, cx=size[1] * 0.48, cy=size[0] * 0.52)
    result = probe()(picture(size), K, output_size=output_size)
    assert result.depth.shape == (SIZE if output_size == "model" else size)
    assert result.image.shape == (*result.depth.shape, 3)
    if output_size == "input":
        assert np.array_equal(result.K, K)
    v, u = np.indices(result.depth.shape)
    x, y = (u - result.K[0, 2]) / result.K[0, 0], (v - result.K[1, 2]) / result.K[1, 1]
    inside = np.isfinite(result.depth)
    fit = plan_fit(size, SIZE, K)
    if output_size == "input":  # the outermost half network pixel is held, not extrapolated
        margin = int(np.ceil(1 / min(fit.scale)))
        inside = cv2.erode(
            inside.astype(np.uint8),
            np.ones((2 * margin + 1,) * 2),
            borderType=cv2.BORDER_CONSTANT,
            borderValue=0,
        ).astype(bool)
    inverse = (0.1 * x + 0.9 * y + 0.2) / 1.5
    assert inside.mean() > 0.2
    np.testing.assert_allclose(1 / result.depth[inside], inverse[inside], atol=2e-4)


@pytest.mark.parametrize("output_size", ["model", "input"])
def test_nan_exactly_where_the_network_saw_no_image(output_size):
    wide, tall = (40, 300), (200, 100)
    result = probe(normal=(0, 0, 1))(picture(wide), camera(wide), output_size=output_size)
    finite = np.isfinite(result.depth)
    if output_size == "model":  # padded above and below
        rows, cols = plan_fit(wide, SIZE, camera(wide)).valid
        expected = np.zeros(SIZE, bool)
        expected[rows, cols] = True
        assert np.array_equal(finite, expected) and not finite.all()
    else:
        assert finite.all()
    np.testing.assert_allclose(result.depth[finite], 1.5)  # no mixing at the border
    result = probe(normal=(0, 0, 1))(picture(tall), camera(tall), output_size=output_size)
    finite = np.isfinite(result.depth)
    if output_size == "model":
        assert finite.all()
    else:  # rows were cropped away around the principal point
        top, left, height, width = plan_fit(tall, SIZE, camera(tall)).crop
        expected = np.zeros(tall, bool)
        expected[top : top + height, left : left + width] = True
        assert np.array_equal(finite, expected) and not finite.all()


def test_canonical_focal_law(predictor):
    """The same pixels through a lens twice as long are twice as far away."""
    image = picture((128, 192))
    once = predictor(image, camera((128, 192), 100.0)).depth
    twice = predictor(image, camera((128, 192), 200.0)).depth
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)


def test_unknown_K_is_the_canonical_camera(predictor):
    image = picture((108, 192))
    result = predictor(image)
    assert result.K[0, 0] == pytest.approx(FOCAL)
    again = predictor(image, predictor(image, output_size="input").K)
    np.testing.assert_allclose(again.depth, result.depth, rtol=1e-4)
    np.testing.assert_allclose(again.K, result.K, atol=1e-9)


def test_scale_is_said_and_applied(tmp_path):
    path = save_small_model(tmp_path / "relative.safetensors")
    image, K = picture(SIZE), camera(SIZE)
    one, three = (Predictor(path, device="cpu", assumed_scale=s)(image, K) for s in (1.0, 3.0))
    np.testing.assert_allclose(three.depth, 3 * one.depth, rtol=1e-6)
    assert (three.scale.value, three.scale.variance) == (3.0, np.inf)
    assert three.scale.source == "relative" and not three.scale.is_metric
    metric = ModelScale(state="metric", source="wheel speed", variance=0.01)
    path = save_small_model(tmp_path / "metric.safetensors", scale=metric)
    result = Predictor(path, device="cpu", assumed_scale=3.0)(image, K)
    np.testing.assert_array_equal(result.depth, one.depth)
    assert (result.scale.value, result.scale.variance) == (1.0, 0.01)
    assert result.scale.source == "checkpoint" and result.scale.is_metric
    for bad in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="assumed_scale"):
            Predictor(path, device="cpu", assumed_scale=bad)
