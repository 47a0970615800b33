"""Laws of the synthetic world's parts: rasteriser, atlas, terrain, streets, traffic, shadows."""

from __future__ import annotations

import numpy as np
import pytest

from dyndepth_core.data.synthetic.agents import motions
from dyndepth_core.data.synthetic.atlas import Atlas
from dyndepth_core.data.synthetic.faces import Builder
from dyndepth_core.data.synthetic.ground import cells
from dyndepth_core.data.synthetic.light import ShadowMap, draw_weather
from dyndepth_core.data.synthetic.look import Look, expose
from dyndepth_core.data.synthetic.object_tiles import leaf_tiles
from dyndepth_core.data.synthetic.raster import Grid, rasterise
from dyndepth_core.data.synthetic.render import View, gather
from dyndepth_core.data.synthetic.streets import Network, Street, kerb_distance
from dyndepth_core.data.synthetic.style import draw_style
from dyndepth_core.data.synthetic.terrain import Profile
from dyndepth_core.data.synthetic.traffic import Traffic
from dyndepth_core.data.synthetic.vehicles import CAR_SHARE
from dyndepth_core.data.synthetic.world import World

K = np.array([[60.0, 0, 31.3], [0, 60.0, 15.2], [0, 0, 1]])
GRID = Grid.of(K, (32, 64))


def quad(x0, x1, y0, y1, z) -> np.ndarray:
    """A quad facing the camera; z is a number or a function of x, y."""
    depth = z if callable(z) else lambda x, y: z
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    return np.array([(x, y, depth(x, y)) for x, y in corners])


def rays() -> np.ndarray:
    v, u = np.mgrid[:32, :64]
    return np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(u.shape)], -1)


def test_depth_of_a_slanted_plane_is_exact_and_its_edges_are_where_they_project():
    # z = 5 + 0.4 x - 0.2 y, i.e. n . X = 5 with n = (-0.4, 0.2, 1)
    verts = quad(-1.5, 1.0, -0.7, 0.6, lambda x, y: 5 + 0.4 * x - 0.2 * y)
    inv, face, _ = rasterise(verts[None], GRID, np.zeros(1, bool))
    inv, face = inv[1::2, 1::2], face[1::2, 1::2]
    want = rays() @ np.array([-0.4, 0.2, 1.0]) / 5.0
    point = rays() / want[..., None]
    inside = (np.abs(point[..., 0] + 0.25) < 1.25) & (np.abs(point[..., 1] + 0.05) < 0.65)
    assert inside.sum() > 100
    np.testing.assert_array_equal(face >= 0, inside)
    np.testing.assert_allclose(inv[inside], want[inside], rtol=1e-5)


def test_a_plane_that_passes_the_camera_is_cut_and_not_mirrored():
    ground = np.array([(5.0, 1.5, 80.0), (5.0, 1.5, -80.0), (-5.0, 1.5, -80.0), (-5.0, 1.5, 80.0)])
    inv, face, _ = rasterise(ground[None], GRID, np.ones(1, bool))
    inv, face = inv[1::2, 1::2], face[1::2, 1::2]
    point = rays()
    hit = point[..., 1] > 1.5 / 79.0
    hit &= np.abs(point[..., 0] * 1.5 / np.maximum(point[..., 1], 1e-9)) < 4.9
    assert hit.sum() > 300
    assert (face[hit] == 0).all()
    np.testing.assert_allclose(inv[hit], point[hit][:, 1] / 1.5, rtol=1e-4)
    assert (face[point[..., 1] < 0] == -1).all()


def test_the_nearer_face_wins_back_faces_vanish_and_holes_show_what_is_behind():
    near, far = quad(-1, 1, -0.4, 0.4, 3.0), quad(-4, 4, -3, 3, 6.0)
    turned = quad(-1, 1, -0.4, 0.4, 2.0)[::-1]
    faces = np.stack([far, near, turned])
    _, face, _ = rasterise(faces, GRID, np.zeros(3, bool))
    assert face[31, 63] == 1 and face[3, 3] == 0 and not (face == 2).any()

    looked_at = []

    def left_half(face, x, y, inv_z):  # noqa: ANN001, ANN202
        looked_at.append(face)
        np.testing.assert_allclose(inv_z, 1 / 3, rtol=1e-5)
        return x < 63

    holed = np.array([False, True, False])
    _, face, _ = rasterise(faces, GRID, np.zeros(3, bool), holed, left_half)
    assert face[31, 62] == 1 and face[31, 63] == 0 and set(looked_at.pop()) == {1}
    # what is hidden anyway is not looked at: here the far face has the holes
    holed = np.array([True, False, False])
    nowhere = rasterise(faces, GRID, np.zeros(3, bool), holed, lambda f, *_: np.zeros(f.size, bool))
    assert nowhere[1][31, 63] == 1 and nowhere[1][3, 3] == -1


def test_of_wide_and_upright_images_no_face_in_view_is_left_out():
    rng = np.random.default_rng(4)
    builder = Builder({"plain": 0})
    for centre in rng.uniform((-40, -40, 0.5), (40, 40, 12), (1500, 3)):
        # along the sight line, as a wall beside the road is
        a, b = np.array([0, 0, rng.uniform(1, 12)]), rng.normal(0, 0.3, 3)
        builder.quad(centre - a - b, centre + a - b, centre + a + b, centre - a + b, "plain")
    faces = builder.faces()
    for size in ((32, 256), (256, 32)):
        f = 0.4 * min(size)
        K = np.array([[f, 0, size[1] / 2], [0, f, size[0] / 2], [0, 0, 1]])
        grid = Grid.of(K, size)
        _, seen, _ = rasterise(faces.verts, grid, np.ones(len(faces), bool))
        in_view = set(faces.verts[np.unique(seen[seen >= 0])].mean((1, 2)).round(6).tolist())
        kept = gather([(np.zeros(3), faces)], View(grid, np.eye(3), np.zeros(3)))
        assert len(in_view) > 50
        assert not in_view - set(kept.verts.mean((1, 2)).round(6).tolist())


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    rng = np.random.default_rng(0)
    tiles = {
        "noise": rng.integers(0, 255, (64, 64, 3)).astype(np.uint8),
        "ramp": np.repeat(np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1))[..., None], 3, 2),
    }
    return Atlas(tiles, {"noise": np.where(rng.random((64, 64)) < 0.3, 255, 0).astype(np.uint8)})


def test_texture_repeats_and_far_away_it_is_its_mean(atlas):
    rng = np.random.default_rng(1)
    u, v = rng.random((2, 700)).astype(np.float32)
    tile, fine = np.zeros(700, int), np.full(700, 1e-3, np.float32)
    here = atlas.sample(tile, u, v, fine)
    np.testing.assert_allclose(atlas.sample(tile, u + 3, v - 5, fine), here, atol=6.0)
    far = atlas.sample(tile, u, v, np.full(700, 10.0, np.float32))
    assert here.std() > 40 > 10 > far.std()
    assert abs(far.mean() - here.mean()) < 6
    ramp = atlas.sample(np.ones(700, int), u * 0.8 + 0.1, v, fine)
    np.testing.assert_allclose(ramp[:, 0], ((u * 0.8 + 0.1) * 32 - 0.5) * 8, atol=1.5)


def test_float64_coordinates_give_the_same_texture(atlas):
    u, v = np.random.default_rng(2).random((2, 300))
    tile, rho = np.zeros(300, int), np.full(300, 0.01)
    small = [a.astype(np.float32) for a in (u, v, rho)]
    np.testing.assert_allclose(atlas.sample(tile, u, v, rho), atlas.sample(tile, *small), atol=4)


def test_leaves_keep_their_share_at_every_distance():
    tiles, alphas = {}, {}
    leaf_tiles(np.random.default_rng(0), tiles, alphas)
    leaves = Atlas(tiles, alphas)
    u, v = np.random.default_rng(3).random((2, 4000)).astype(np.float32)
    for name, alpha in alphas.items():
        want = (alpha > 127).mean()
        tile = np.full(4000, leaves.ids[name])
        for rho in (0.001, 0.01, 0.03, 0.1):
            share = leaves.opaque(tile, u, v, np.full(4000, rho, np.float32)).mean()
            assert share == pytest.approx(want, abs=0.08)


def test_kerb_distance_is_exact_beside_a_street_and_round_at_a_corner():
    streets = [
        Street(0, 0.0, (), 4.0, 2.0, -100, 100, 0, 1, 3.0),
        Street(1, 0.0, (), 4.0, 2.0, -100, 100, 0, 1, 3.0),
    ]
    x, y = np.array([50.0, 50.0, 4.5, 12.0]), np.array([1.0, 9.0, 4.5, 12.0])
    dist = kerb_distance(streets, x, y)
    np.testing.assert_allclose(dist[:2], [-3.0, 5.0], atol=1e-6)
    assert dist[2] < 0 < dist[3]  # the corner at (4, 4) is cut off by a curve


def test_grades_stay_within_their_limit_and_corners_are_level():
    steepest = 0.0
    for seed in range(12):
        profile = Profile(np.random.default_rng(seed), 0.058)
        profile.flatten(300.0)
        assert np.abs(profile.slope).max() <= 0.06
        assert np.abs(np.diff(profile.slope)).max() <= 0.0131
        assert abs(profile(np.array(300.0)) - profile(np.array(315.0))) < 0.05
        steepest = max(steepest, np.abs(profile.slope[380:440]).max())
    assert steepest > 0.05


def network(seed: int) -> Network:
    rng = np.random.default_rng(seed)
    return Network(rng, draw_style(rng), 200.0, 0.05)


def test_the_reference_line_is_smooth_across_corners_and_bends_never_kink():
    for seed in range(4):
        net = network(seed)
        net.extend(900.0)
        step = np.hypot(*np.diff(net.ref[:, :2], axis=0).T)
        assert np.abs(step - 0.5).max() < 0.05
        assert np.abs(np.diff(net.ref[:, 2])).max() < 0.08  # radians per half metre
        assert np.ptp(net.ref[:, 2]) > 1.4  # it turned at least one corner


def test_ground_cells_lie_on_the_terrain():
    net = network(3)
    quads = cells(net, 10.0, -4.0)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, len(quads)))
    inner = quads[:, 0] + a[:, None] * (quads[:, 1] - quads[:, 0])
    inner = inner + b[:, None] * (quads[:, 3] - quads[:, 0])
    np.testing.assert_allclose(inner[:, 2], net.height(inner[:, 0], inner[:, 1]), atol=1e-6)


def simulate(seed: int, frames: int, scenario: str = "drive") -> Traffic:
    traffic = Traffic(
        np.random.default_rng(seed), network(seed), scenario, 0.1, [4.5] * len(CAR_SHARE), 8
    )
    traffic.at(frames)
    return traffic


def test_every_kind_of_motion_appears_over_seeds():
    seen: set[str] = set()
    for seed in range(28):
        scenario = ("drive", "drive", "stop", "stand")[seed % 4]
        traffic = simulate(seed, 40, scenario)
        for snapshot in traffic.history[::3]:
            seen |= motions(snapshot)
    wanted = "lead_same lead_slow lead_fast oncoming overtaking overtaken crossing pedestrian"
    wanted += " crossing_pedestrian ego_standing ego_driving"
    assert set(wanted.split()) <= seen


def test_traffic_goes_on_for_a_thousand_frames_without_a_rear_end_collision():
    traffic = simulate(5, 1000)
    ego = [s.agents[0].s for s in traffic.history]
    assert ego[-1] - ego[0] > 200.0
    assert (np.diff(ego) >= 0).all()
    assert all(2 <= len(s.agents) < 90 for s in traffic.history[::50])
    for snapshot in traffic.history[::5]:
        ego = snapshot.agents[0]
        for other in snapshot.agents[1:]:
            if other.kind == "car" and other.s > ego.s and abs(other.d - ego.d) < 1.0:
                assert other.s - ego.s > (other.length + ego.length) / 2 - 0.3


def test_a_shadow_falls_away_from_the_sun_and_nowhere_else():
    sun = np.array([1.0, 0.0, 1.0]) / np.sqrt(2)
    shadow = ShadowMap(sun)
    assert shadow.window(0.0, 0.0, 0.0, 0.0)
    roof = np.array([[(2, 2, 5), (2, -2, 5), (-2, -2, 5), (-2, 2, 5)]], float)
    shadow.cast(roof)
    x, y, z = np.array([(-5, 0, 0), (5, 0, 0), (0, 0, 0), (0, 0, 5.3)], np.float32).T
    np.testing.assert_array_equal(shadow.lit(x, y, z), [0, 1, 1, 1])


def test_a_tower_casts_its_whole_shadow():
    shadow = ShadowMap(np.array([-3.0, 0.0, 1.0]) / np.sqrt(10))
    assert shadow.window(0.0, 0.0, 0.0, 0.0)  # over x from -24 to 119, y from -72 to 72
    shadow.cast(np.array([[(0, 8, 60), (0, -8, 60), (0, -8, 0), (0, 8, 0)]], float))
    x = np.array([-2, 2, 100, 100, 100, 2], np.float32)
    y, z = np.array([(0, 0), (0, 0), (0, 0), (9, 0), (0, 28), (0, 61)], np.float32).T
    np.testing.assert_array_equal(shadow.lit(x, y, z), [1, 0, 0, 1, 1, 1])


def test_bad_arguments_name_themselves():
    with pytest.raises(ValueError, match="8x416"):
        World(0, 0, (8, 416))
    with pytest.raises(ValueError, match="rate_hz"):
        World(0, 0, rate_hz=0.0)
    with pytest.raises(ValueError, match="-1"):
        World(0, 0, (32, 64)).render(-1)


def test_the_corners_of_a_tall_image_are_dark_and_no_more():
    weather, rng = draw_weather(np.random.default_rng(0)), np.random.default_rng(1)
    samples = np.full((2 * 160 + 1, 2 * 32 + 1, 3), 0.4, np.float32)
    with np.errstate(invalid="raise"):  # a negative light has no shot noise
        image = expose(samples, weather, Look(), 0.0, rng)
    assert image[0, 0].max() < 20 < image[80, 16].min()
