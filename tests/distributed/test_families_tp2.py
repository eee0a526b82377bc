"""Over two tensor-parallel ranks every family computes what transformers computes."""

import pytest
from ranks import run_on_ranks

from tests.tiny_models import CASES, write_model

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What two ranks make of each case, compared with transformers."""
    folders = {case: str(write_model(case, tmp_path_factory.mktemp("model"))) for case in CASES}
    # Experts with biases are not cut: each is one rank's.
    whole = {case: folder for case, folder in folders.items() if "gpt oss" in case}
    cut = {case: folder for case, folder in folders.items() if case not in whole}
    outcomes = [
        run_on_ranks("families_ranks:compare_at_tp2", {"folders": part, "etp": etp}, num_ranks=2)
        for etp, part in ((1, whole), (2, cut))
    ]
    return outcomes[0] | outcomes[1]


@pytest.mark.parametrize("case", CASES)
def test_logprobs_of_two_ranks_are_those_of_transformers(case, outcome):
    assert outcome[case]["logprobs"] < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_ranks_are_those_of_transformers(case, outcome):
    for name, difference in outcome[case]["gradients"].items():
        assert difference < 1e-3, name


@pytest.mark.parametrize("case", CASES)
def test_weights_come_out_of_two_ranks_as_they_went_in(case, outcome):
    assert outcome[case]["is exact"]
