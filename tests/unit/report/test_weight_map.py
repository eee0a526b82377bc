"""The map draws what was measured where it was measured."""

import numpy as np

from megatron_rl.algorithm.weight_space import Directions
from megatron_rl.report.weight_space import weight_map, write_weight_map

DIRECTIONS = Directions(
    mixtures_2T=np.zeros((2, 3)),
    positions_T2=np.array([[-2.0, -1.0], [-1.0, 1.0], [0.0, 0.0]]),
    shares_2=np.array([0.75, 0.2]),
)
POINTS = [
    {
        "along_1": x,
        "along_2": y,
        "reward": 0.1 * x,
        "length": 100.0 * np.exp(x),
        "reward_without_length": 0.3 * x + 0.5,
    }
    for x in (-2.0, 0.0, 1.0)
    for y in (-1.0, 1.0)
]


def test_surfaces_trajectory_and_law_are_drawn():
    figure = weight_map([5, 10, 15], DIRECTIONS, POINTS)
    rewards, trajectory, lengths, _, cloud, line = figure.data
    assert list(rewards.z) == [point["reward"] for point in POINTS]
    assert list(lengths.z) == [point["length"] for point in POINTS]
    assert list(trajectory.x) == [-2.0, -1.0, 0.0]
    assert list(trajectory.text) == ["step 5", "step 10", "step 15"]
    assert list(cloud.y) == [point["reward_without_length"] for point in POINTS]
    np.testing.assert_allclose(line.y, [-0.1, 0.8], atol=1e-9)
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert titles[2] == "0.3 log(length) + -0.882, R² = 1.00"
    assert figure.layout.xaxis.title.text == "direction 1 (75%)"


def test_the_page_needs_no_network(tmp_path):
    page = tmp_path / "map" / "weight_space.html"
    write_weight_map(page, [5, 10, 15], DIRECTIONS, POINTS)
    text = page.read_text()
    assert "step 10" in text
    assert 'src="http' not in text


def test_equal_lengths_have_no_law():
    same = [point | {"length": 7.0} for point in POINTS]
    figure = weight_map([5, 10, 15], DIRECTIONS, same)
    assert len(figure.data) == 5
    assert figure.layout.annotations[2].text == "reward over length"
