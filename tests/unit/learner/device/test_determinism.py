"""Deterministic learners: what is asked of torch and the environment, and where it is refused."""

import pytest
import torch

from megatron_rl.conversion.families import model_spec
from megatron_rl.errors import ConfigError
from megatron_rl.learner.device.determinism import (
    MEGATRON_FIELDS,
    compute_deterministically,
)
from megatron_rl.learner.learner import Learner
from tests.distributed.tiny_policy import CONFIG, SEED, make_batches, settings

ENGINE = "2.11.0"


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_torch_cublas_and_transformer_engine_are_asked():
    environment = {}
    compute_deterministically(environment)
    assert environment == {
        "NVTE_ALLOW_NONDETERMINISTIC_ALGO": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    }
    assert torch.are_deterministic_algorithms_enabled()
    # An operation without such a form is named in the log, and does not end the run.
    assert torch.is_deterministic_algorithms_warn_only_enabled()


def test_an_environment_that_says_the_opposite_is_refused():
    with pytest.raises(ConfigError, match=r"NONDETERMINISTIC_ALGO \(1\) must be 0 with learner\."):
        compute_deterministically({"NVTE_ALLOW_NONDETERMINISTIC_ALGO": "1"})


def test_megatron_takes_its_deterministic_layers_and_learns_the_same(parallel, platform):
    def trained(**fields):
        spec = model_spec(CONFIG)
        wanted = settings(megatron=fields)
        learner = Learner(spec, wanted, parallel, platform, pretrained=None, seed=SEED)
        embedding = learner._bare_chunks()[0].embedding.word_embeddings
        assert embedding.deterministic_mode == bool(fields)
        for batch in make_batches(2):
            learner.update(batch)
        return {name: weight.clone() for name, weight in learner.named_weights()}

    usual = trained()
    compute_deterministically({})
    first, second = trained(**MEGATRON_FIELDS), trained(**MEGATRON_FIELDS)
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
        torch.testing.assert_close(weight, usual[name], rtol=0, atol=1e-4)
