"""Rigid motions."""

import pytest
import torch

from dyndepth_core.geometry.se3 import (
    compose,
    euler_to_matrix,
    exp_so3,
    invert_T,
    make_T,
    skew,
    transform,
)

torch.manual_seed(0)
VECTORS = torch.randn(8, 3, dtype=torch.float64)


def random_T(count=4):
    return make_T(exp_so3(torch.randn(count, 3).double()), torch.randn(count, 3).double())


def test_skew_is_the_cross_product():
    torch.testing.assert_close((skew(VECTORS) @ VECTORS.flip(0)[..., None])[..., 0],
                               torch.linalg.cross(VECTORS, VECTORS.flip(0)))  # fmt: skip


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-5, 0.99e-4, 1.01e-4, 1e-3, 0.1, 1.0, 3.1])
def test_exp_so3_is_the_matrix_exponential(angle):
    vector = angle * torch.nn.functional.normalize(VECTORS, dim=-1)
    R = exp_so3(vector)
    torch.testing.assert_close(R, torch.matrix_exp(skew(vector)), atol=1e-13, rtol=0)
    eye = torch.eye(3, dtype=torch.float64).expand_as(R)
    torch.testing.assert_close(R @ R.mT, eye, atol=1e-13, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(8).double())


def test_rotations_are_right_handed_and_in_radians():
    quarter = torch.pi / 2 * torch.eye(3)
    x, y, z = torch.eye(3)
    turned = exp_so3(quarter) @ torch.stack((y, z, x))[..., None]
    torch.testing.assert_close(turned[..., 0], torch.stack((z, x, y)))


@pytest.mark.parametrize("angle", [0.0, 1e-5, 2e-4, 0.3])
def test_gradcheck_of_exp_so3(angle):
    vector = (angle * VECTORS[:2]).requires_grad_()
    assert torch.autograd.gradcheck(exp_so3, (vector,), eps=1e-5, atol=1e-7)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 1.1e-4, 1e-3, 1e-2])
def test_exp_so3_is_as_exact_in_float32_near_the_identity_where_a_pose_network_starts(angle):
    vector = angle * torch.nn.functional.normalize(VECTORS[:1], dim=-1)
    exact = torch.autograd.functional.jacobian(exp_so3, vector)
    found = torch.autograd.functional.jacobian(exp_so3, vector.float())
    torch.testing.assert_close(found.double(), exact, atol=2e-7, rtol=0)


def test_euler_angles_compose_as_x_then_y_then_z():
    angles = VECTORS[:4]
    single = [exp_so3(angles * torch.eye(3).double()[i]) for i in range(3)]
    torch.testing.assert_close(euler_to_matrix(angles), single[0] @ single[1] @ single[2])


def test_T_times_its_inverse_is_the_identity():
    T = random_T()
    eye = torch.eye(4, dtype=torch.float64).expand_as(T)
    torch.testing.assert_close(T @ invert_T(T), eye)
    torch.testing.assert_close(invert_T(T) @ T, eye)
    torch.testing.assert_close(invert_T(T), torch.linalg.inv(T))


def test_transforms_compose_with_touching_letters():
    T_a_b, T_b_c = random_T(), random_T()
    X_c = torch.randn(4, 3, 5, 6, dtype=torch.float64)
    X_b = transform(T_b_c, X_c)
    torch.testing.assert_close(transform(T_a_b @ T_b_c, X_c), transform(T_a_b, X_b))
    torch.testing.assert_close(transform(invert_T(T_b_c), X_b), X_c)


def test_gradcheck_of_transforms():
    T = random_T(1).requires_grad_()
    points = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda T, X: transform(invert_T(T), X), (T, points))


def test_half_precision_regions_do_not_touch_motions():
    """A pose network runs inside autocast; 8 bits of a motion are off by millimetres per metre."""
    vector, t = torch.tensor([[0.03, 0.02, -0.05]]), torch.tensor([[0.1, 0.02, 1.0]])
    expected = make_T(exp_so3(vector), t), invert_T(make_T(exp_so3(vector), t))
    with torch.autocast("cpu", torch.bfloat16):
        T = make_T(exp_so3(vector), t)
        found = T, invert_T(T)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=0, rtol=0)


def test_motions_compose_in_full_precision_under_autocast():
    a, b = random_T().float(), random_T().float()
    expected = a @ b
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (a @ b - expected).abs().max() > 1e-3
        torch.testing.assert_close(compose(a[:, None], b[:, None])[:, 0], expected)
