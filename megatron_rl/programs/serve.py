"""``megatron-rl serve``: run one stock SGLang server and register it while it is healthy.

Of a server that spans nodes, each node runs this program for its own ranks; the first registers.
"""

import argparse
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_rl.config import OWN_NAME, RunConfig
from megatron_rl.errors import ModelError, ServerStartError
from megatron_rl.generation.health_monitor import HealthMonitor
from megatron_rl.generation.server_command import Span, secret_text, server_argv
from megatron_rl.generation.server_process import ServerProcess, is_healthy
from megatron_rl.hf_folder import check_weight_format, has_weights
from megatron_rl.programs.builders.model import first_weights, trained_spec
from megatron_rl.programs.builders.server import (
    check_quantized_serving_here,
    check_served_dtype,
    checked_flags,
    config_overrides,
    serving_device,
    serving_environment,
    span_of,
    takes_shards,
)
from megatron_rl.programs.checks.quantized_servers import check_quantized_servers
from megatron_rl.programs.processes.ports import free_port
from megatron_rl.programs.processes.stopping import StopRequest
from megatron_rl.registry import (
    ServerInfo,
    register_server,
    registered_name,
    restart_request,
    unregister_server,
    withdraw_restart,
)
from megatron_rl.run_dir import RunDir, publish_atomically

# The weights a server loads by itself are those before the first step.
_FIRST_VERSION = 0
_GRACE_S = 2.0
_STARTS = 3
_PORT_TAKEN = "address already in use"
_POLL_S = 0.1
_ANY_ADDRESS = ("0.0.0.0", "::")


def main(config: RunConfig, options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT (0) or until the server dies (1).

    Raises:
        ConfigError: a flag, type, host or port that cannot work.
        ModelError: the model folder cannot be served.
        ServerStartError: the server did not become healthy; carries its last log lines.
    """
    check_served_dtype(config)
    stop = StopRequest()
    span = span_of(config.generators, os.environ)
    # All nodes have to start again together: the launcher has them do so, with another port.
    num_starts = _STARTS if span.num_nodes == 1 else 1
    for num_left in reversed(range(num_starts)):
        try:
            return _start_and_serve(config, options, span, stop)
        except ServerStartError as error:
            # SGLang too picks ports some time before it binds them.
            if not (num_left and _PORT_TAKEN in str(error).lower()):
                raise
            print("a port was taken by another program meanwhile; starting again", flush=True)
    raise AssertionError("the last start returns or raises")


def _start_and_serve(
    config: RunConfig, options: argparse.Namespace, span: Span, stop: StopRequest
) -> int:
    run_dir, name = RunDir(config.run_dir), registered_name(options.index)
    if span.node_rank:
        name = f"{name}_{span.node_rank}"  # of its log; it is not registered
    else:
        unregister_server(run_dir, name)  # left behind by a serve that was killed
    model_path, has_weights = _model(config, starts_without_weights=options.await_weights)
    if has_weights:
        _say_that_it_serves_them_as_they_are(config)
    else:
        check_quantized_servers(config, trained_spec(config))
        check_quantized_serving_here(config)
    generators = config.generators
    host = socket.gethostname() if generators.host == OWN_NAME else generators.host
    port = free_port(host, generators.port and generators.port + options.index)
    environment = serving_environment(generators)
    flags, known = checked_flags(generators)
    # Hexadecimal: SGLang takes a key that begins with a dash for an option.
    api_key = secrets.token_hex(32)
    with _secret_file(run_dir.servers, name, secret_text(api_key)) as secret_file:
        argv = server_argv(
            python=generators.python,
            device=serving_device(generators.sglang),
            model_path=model_path,
            has_weights=has_weights,
            takes_shards=takes_shards(config),
            dtype=config.model.dtype,
            config_overrides=config_overrides(config, has_weights=has_weights),
            tp=generators.tp,
            host=host,
            port=port,
            context_length=generators.context_length,
            secret_file=secret_file,
            version=_FIRST_VERSION,
            flags=flags,
            known=known,
            span=span,
        )
        server = ServerProcess(argv, environment, log=run_dir.logs / f"{name}.log", api_key=api_key)
        with server:
            if span.node_rank:
                return _watch(server, name, stop) or _stopped(server)
            address = (_reachable(host, local=True), port)
            is_up = server.wait_until_healthy(
                address,
                api_key=api_key,
                timeout_s=generators.start_timeout_s,
                is_cancelled=lambda: stop.is_set,
            )
            secret_file.unlink(missing_ok=True)
            if not is_up:
                return _stopped(server)
            info = ServerInfo(
                name=name,
                incarnation=secrets.token_hex(8),
                url=f"http://{_reachable(host, local=False)}:{port}",
                api_key=api_key,
                pid=os.getpid(),
                tp=generators.tp,
                starts_without_weights=not has_weights,
                takes_shards=takes_shards(config),
            )
            monitor = HealthMonitor(
                lambda: is_healthy(address, api_key=api_key),
                patience_s=generators.hang_timeout_s,
            )
            return _serve(server, run_dir, info, stop, monitor)


def _serve(
    server: ServerProcess,
    run_dir: RunDir,
    info: ServerInfo,
    stop: StopRequest,
    monitor: HealthMonitor,
) -> int:
    register_server(run_dir, info)
    print(f"{info.name} serves at {info.url}", flush=True)
    try:
        code = _watch(
            server, info.name, stop, monitor, is_unwanted=lambda: _is_unwanted(run_dir, info)
        )
    finally:
        unregister_server(run_dir, info.name)
    return code or _stopped(server)


def _is_unwanted(run_dir: RunDir, info: ServerInfo) -> bool:
    """Return whether the learner wants this incarnation started again."""
    request = restart_request(run_dir, info.name)
    if request is not None and request.incarnation != info.incarnation:
        withdraw_restart(run_dir, info.name)  # of one that had died by itself
        return False
    return request is not None


def _watch(
    server: ServerProcess,
    name: str,
    stop: StopRequest,
    monitor: HealthMonitor | None = None,
    is_unwanted: Callable[[], bool] = lambda: False,
) -> int:
    """Return 0 once asked to stop, 1 once the server is dead, hung or to be started again."""
    while not stop.is_set:
        if server.poll() is not None:
            print(
                f"{name} died with exit code {server.poll()}; its last lines:\n{server.log_tail}",
                file=sys.stderr,
            )
            return 1
        if monitor is not None and monitor.is_hung():
            print(
                f"{name} has not answered for {monitor.patience_s} s "
                f"(generators.hang_timeout_s); its last lines:\n{server.log_tail}",
                file=sys.stderr,
            )
            return 1
        if is_unwanted():
            print(
                f"{name} is to start again: a broadcast of weights failed that its GPU may wait "
                "for; see the learner's log",
                file=sys.stderr,
            )
            return 1
        time.sleep(_POLL_S)
    return 0


def _stopped(server: ServerProcess) -> int:
    server.stop(grace_s=_GRACE_S)
    return 0


def _model(config: RunConfig, *, starts_without_weights: bool) -> tuple[Path, bool]:
    """Return the folder to serve and whether its weights are to be loaded."""
    if starts_without_weights:
        return config.model.path, False
    weights = first_weights(config)
    path = config.model.path if weights is None else weights
    if not (path / "config.json").exists():
        remedy = "run `megatron-rl sft` first" if config.sft is not None else "see model.path"
        raise ModelError(f"{path}: no config.json there; {remedy}")
    if weights is None:
        return path, False
    if not has_weights(path):
        check_weight_format(path)
        raise ModelError(
            f'{path}: no safetensors there; set model.init = "random" to start without weights'
        )
    return path, True


def _say_that_it_serves_them_as_they_are(config: RunConfig) -> None:
    quantization = config.generators.quantization
    if quantization != "none":
        print(
            f'weights are served as the folder has them: generators.quantization ("{quantization}")'
            " is for those that a learner sends",
            flush=True,
        )


def _reachable(host: str, *, local: bool) -> str:
    """Return an address to connect to; an address that means all interfaces is none."""
    if host not in _ANY_ADDRESS:
        return host
    return "localhost" if local else socket.gethostname()


@contextlib.contextmanager
def _secret_file(folder: Path, name: str, text: str) -> Iterator[Path]:
    """Keep a file that only the owner can read for as long as a server needs to start.

    Of its own name: a predecessor that a node's death ends may still put its own away.
    """
    for stale in folder.glob(f".{name}.*.yaml"):
        stale.unlink(missing_ok=True)
    path = folder / f".{name}.{secrets.token_hex(4)}.yaml"
    publish_atomically(path, text.encode(), mode=0o600)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)
