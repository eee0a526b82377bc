"""One generation server as a child of this process, for tools that need nothing else of a run."""

import contextlib
import time
from collections.abc import Iterator

from megatron_rl.config import RunConfig
from megatron_rl.programs.server_span import check_one_machine
from megatron_rl.programs.supervisor import Supervisor
from megatron_rl.registry import ServerInfo, registered_servers
from megatron_rl.run_dir import RunDir, publish_atomically

_GRACE_S = 5.0
# Under torchrun this makes every process group of a child look for torchrun's store.
_APART_FROM_TORCHRUN = {"TORCHELASTIC_USE_AGENT_STORE": "False"}
_POLL_S = 0.1


@contextlib.contextmanager
def serving(config: RunConfig, *, awaits_weights: bool) -> Iterator[ServerInfo]:
    """Serve the model of ``config`` in its run folder; yield once the server is registered.

    Args:
        config: of the server; written to the run folder for it to read.
        awaits_weights: start on placeholder weights, which are published before any request.

    Raises:
        ConfigError: the server would span nodes.
        ProgramError: the server ended while starting; carries the last lines of its log.
    """
    check_one_machine(config.generators)
    run_dir = RunDir(config.run_dir)
    publish_atomically(run_dir.config, (config.model_dump_json(indent=1) + "\n").encode())
    run_dir.policy.unlink(missing_ok=True)
    arguments = ["serve", str(run_dir.config), *(["--await-weights"] if awaits_weights else [])]
    with Supervisor(grace_s=_GRACE_S) as supervisor:
        child = supervisor.start(
            "serve",
            "serve_0",
            arguments,
            log=run_dir.logs / "serve_0.log",
            environment=_APART_FROM_TORCHRUN,
        )
        while not (servers := registered_servers(run_dir)):
            if child.poll() is not None:
                raise child.failure()
            time.sleep(_POLL_S)
        yield next(iter(servers.values()))
