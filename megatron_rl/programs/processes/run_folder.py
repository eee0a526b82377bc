"""Run folder of a launcher: locked, configuration written, earlier servers removed."""

import contextlib
import errno
import fcntl
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from megatron_rl.config import RunConfig, held_out_sets
from megatron_rl.errors import ConfigError
from megatron_rl.learner.checkpoint.steps import latest_step
from megatron_rl.programs.loops.evaluation_schedule import is_last_recorded
from megatron_rl.run_dir import RunDir, publish_atomically, read_jsonl

_LOG = logging.getLogger(__name__)
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextlib.contextmanager
def held_alone(run_dir: RunDir) -> Iterator[None]:
    """Keep other launchers out of a run: two learners would write the same checkpoints.

    Raises:
        ConfigError: another launcher holds it; names the process.
    """
    run_dir.root.mkdir(parents=True, exist_ok=True)
    # Never removed: unlinking may hit a lock file that a third process has just locked.
    with (run_dir.root / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise ConfigError(
                f"run_dir {run_dir.root} is in use by {file.read().strip()}; wait for it, stop it, "
                "or give this run a run_dir of its own"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            _LOG.warning("%s: no locks here, so nothing keeps others out", run_dir.root)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


def config_file(config: RunConfig) -> Path:
    """Return the file of the resolved configuration: of the run, or of one of its stages."""
    run_dir = RunDir(config.run_dir)
    if config.stage is None:
        return run_dir.config
    return run_dir.stage_config(config.stage.number, config.stage.name)


def write_config(config: RunConfig) -> None:
    """Write the resolved configuration, which programs, report and later commands start from."""
    publish_atomically(config_file(config), (config.model_dump_json(indent=1) + "\n").encode())


def is_complete(config: RunConfig) -> bool:
    """Return whether every step is trained and exported, and the last evaluations there.

    A launcher that is started again after that has nothing to do.
    """
    run_dir = RunDir(config.run_dir)
    trained = max((record["step"] for record in read_jsonl(run_dir.metrics)), default=0)
    sets = [held_out.name for held_out in held_out_sets(config)]
    is_evaluated = is_last_recorded(run_dir, num_steps=config.num_steps, sets=sets)
    is_exported = (run_dir.hf / "config.json").exists()
    return trained >= config.num_steps and is_evaluated and is_exported and run_dir.report.exists()


def prepare_run_folder(config: RunConfig) -> RunDir:
    """Write the resolved configuration, and remove the servers of an earlier life.

    Raises:
        ConfigError: the run that is there has gone further than ``num_steps``.
    """
    run_dir = RunDir(config.run_dir)
    step = latest_step(run_dir.checkpoints)
    if step is not None and step > config.num_steps:
        raise ConfigError(
            f"num_steps ({config.num_steps}) must be >= the step that the run in {run_dir.root} is "
            f"at ({step}); raise it, or name a new run_dir"
        )
    write_config(config)
    run_dir.policy.unlink(missing_ok=True)
    for path in run_dir.servers.glob("*"):
        path.unlink()
    return run_dir
