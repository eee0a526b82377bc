"""Directions from the small Gram matrix are those of the large covariance."""

import numpy as np
import pytest

from megatron_rl.algorithm.weight_space import (
    fit_length_law,
    grid_around,
    principal_directions,
)


@pytest.fixture
def weights_TW():
    """Return a trajectory that mostly moves along two directions, far from the origin."""
    rng = np.random.default_rng(3)
    steps = np.linspace(0, 1, 7)
    along_2W = rng.normal(size=(2, 50))
    path_T2 = np.stack([4 * steps, 1.5 * np.sin(3 * steps)], axis=1)
    return 100.0 + path_T2 @ along_2W + 0.01 * rng.normal(size=(7, 50))


def directions_of(weights_TW):
    moved_TW = weights_TW - weights_TW[-1]
    found = principal_directions(moved_TW @ moved_TW.T)
    return found, found.mixtures_2T @ moved_TW


def test_they_are_the_principal_components_of_all_weights(weights_TW):
    found, directions_2W = directions_of(weights_TW)
    centred_TW = weights_TW - weights_TW.mean(axis=0)
    _, singular, right = np.linalg.svd(centred_TW, full_matrices=False)
    for direction, expected in zip(directions_2W, right[:2], strict=True):
        assert abs(direction @ expected) == pytest.approx(1, abs=1e-9)
    assert found.shares_2 == pytest.approx(singular[:2] ** 2 / (singular**2).sum(), abs=1e-9)


def test_they_are_orthogonal_and_of_unit_norm(weights_TW):
    _, directions_2W = directions_of(weights_TW)
    np.testing.assert_allclose(directions_2W @ directions_2W.T, np.eye(2), atol=1e-9)


def test_positions_are_projections_and_end_at_the_origin_coming_from_below(weights_TW):
    found, directions_2W = directions_of(weights_TW)
    expected_T2 = (weights_TW - weights_TW[-1]) @ directions_2W.T
    np.testing.assert_allclose(found.positions_T2, expected_T2, atol=1e-9)
    assert found.positions_T2[-1] == pytest.approx([0, 0], abs=1e-9)
    assert (found.positions_T2[0] <= 0).all()


@pytest.mark.parametrize(
    "rows", [[[0.0, 1.0], [2.0, 1.0]], [[0.0], [1.0], [3.0]], [[1.0, 1.0]] * 4]
)
def test_checkpoints_on_a_line_or_point_have_no_plane(rows):
    moved = np.array(rows) - np.array(rows)[-1]
    with pytest.raises(ValueError, match="do not span two directions"):
        principal_directions(moved @ moved.T)


def test_the_grid_has_the_origin_and_covers_the_trajectory_with_its_margin():
    positions_T2 = np.array([[-4.0, -2.0], [-1.0, 2.0], [0.0, 0.0]])
    points = grid_around(positions_T2, size=3, margin=0.25)
    assert points[0] == (0.0, 0.0)
    assert len(points) == 10
    assert sorted({x for x, _ in points[1:]}) == [-5.0, -2.0, 1.0]
    assert sorted({y for _, y in points[1:]}) == [-3.0, 0.0, 3.0]


def test_the_law_of_length_is_found():
    lengths = np.array([100.0, 200.0, 400.0, 900.0])
    law = fit_length_law(lengths, 0.2 * np.log(lengths) - 0.7)
    assert law is not None
    assert (law.slope, law.offset, law.r_squared) == pytest.approx((0.2, -0.7, 1.0))


def test_there_is_no_law_without_a_spread():
    same = np.full(5, 100.0)
    assert fit_length_law(same, np.arange(5.0)) is None
    assert fit_length_law(np.arange(1.0, 6.0), same) is None
    assert fit_length_law(np.array([1.0, 2.0]), np.array([1.0, 2.0])) is None
