"""The run folder made ready for programs to start: the configuration in, earlier servers out."""

from megatron_rl.config import RunConfig
from megatron_rl.run_dir import RunDir, publish_atomically


def prepare_run_folder(config: RunConfig) -> RunDir:
    """Write the resolved configuration, and forget who served in an earlier life."""
    run_dir = RunDir(config.run_dir)
    publish_atomically(run_dir.config, (config.model_dump_json(indent=1) + "\n").encode())
    run_dir.policy.unlink(missing_ok=True)
    for path in run_dir.servers.glob("*"):
        path.unlink()
    return run_dir
