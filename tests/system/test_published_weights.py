"""What every server holds after a publication is the export, tensor by tensor and bit by bit.

A learner at some layout takes a step and exports. Servers of one and two tensor-parallel ranks load
the export, keep a copy, get random weights in its place, and then those that the learner publishes.
SGLang itself compares with the copy, on each rank, and names what differs.
"""

import contextlib
import time
import urllib.error
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sglang_server import PYTHON, Server, register, start_server, wait_until_ready
from tiny_model import build_tiny_tokenizer
from tiny_run import HANGS_AFTER_S

from megatron_rl.generation.server_command import STANDINS
from megatron_rl.run_dir import RunDir
from tests.distributed.ranks import free_port, run_on_ranks
from tests.distributed.tiny_policy import CONFIG, MOE_CONFIG
from tests.random_model import write_random_model

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.distributed,
    pytest.mark.skipif(not PYTHON.exists(), reason="no serving environment in .venv-serve"),
]
# The warm-up sends tokens that this small a vocabulary does not have.
FLAGS = ["--skip-server-warmup"]
ON_CPU = {"PYTHONPATH": f"{STANDINS}:{Path(__file__).with_name('weight_checker_on_cpu')}"}
TP2 = ON_CPU | {"SGLANG_CPU_OMP_THREADS_BIND": "0|1"}
CASES = {
    "dense": (
        CONFIG | {"architectures": ["Qwen3ForCausalLM"]},
        {"tp": 2, "pp": 2, "etp": 2},
    ),
    "moe": (
        MOE_CONFIG | {"architectures": ["Qwen3MoeForCausalLM"]},
        {"ep": 2, "pp": 2, "etp": 1},
    ),
}


def check(server: Server, action: str) -> str:
    """Ask SGLang's weight checker; return what it found wrong, empty when nothing."""
    try:
        server.call("/weights_checker", {"action": action})
    except urllib.error.HTTPError as refusal:
        return refusal.read().decode()
    return ""


def load_and_forget(server: Server, export: str) -> None:
    """Load the export and keep a copy of it beside random weights."""
    server.call("/update_weights_from_disk", {"model_path": export, "load_format": "auto"})
    assert check(server, "snapshot") == ""
    assert check(server, "reset_tensors") == ""
    # A failed comparison keeps the copy.
    assert "check tensor equality failed" in check(server, "compare")


@pytest.mark.parametrize("case", CASES)
def test_servers_hold_the_export_after_a_publication(case, tmp_path):
    config, layout = CASES[case]
    model = write_random_model(config, tmp_path / "model")
    build_tiny_tokenizer().save_pretrained(model)
    export, proceed = tmp_path / "export", tmp_path / "proceed"
    argument = {
        "port": free_port(),
        "layout": layout,
        "model": str(model),
        "export": str(export),
        "run_dir": str(tmp_path),
        "proceed": str(proceed),
    }
    with ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        stack.callback(proceed.touch)  # also after a failure: the learner waits for it
        servers = {
            "tp1": start_server(model, tmp_path / "tp1.log", flags=FLAGS, variables=ON_CPU),
            "tp2": start_server(
                model, tmp_path / "tp2.log", flags=[*FLAGS, "--tp", "2"], variables=TP2
            ),
        }
        for server in servers.values():
            stack.callback(server.kill)
        for server in servers.values():
            wait_until_ready(server)
        learning = pool.submit(
            run_on_ranks,
            "publication_ranks:train_export_and_publish",
            argument,
            num_ranks=4,
            timeout_s=HANGS_AFTER_S,
        )
        while not export.exists():
            assert not learning.done(), learning.result()
            time.sleep(0.1)
        for name, server in servers.items():
            load_and_forget(server, str(export))
            register(RunDir(tmp_path), name, server, tp=int(name[-1]))
        proceed.touch()
        assert learning.result() == 2
        for name, server in servers.items():
            assert check(server, "compare") == "", name
