"""Disk publisher of weights: the slow twin of ``collective``, easy to inspect.

Every version is a Hugging Face folder that any tool can open. Servers load it while paused, so
running sequences go on under the new weights exactly as with the broadcast.
"""

import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from megatron_rl.hf_folder import write_hf_folder
from megatron_rl.protocols import PublishReport
from megatron_rl.registry import read_policy_state, registered_servers
from megatron_rl.run_dir import RunDir
from megatron_rl.weight_sync.fleet import Attempts, Fleet, announce


class DiskPublisher:
    """Publisher that writes Hugging Face folders for the servers, on the learner's rank 0."""

    def __init__(
        self,
        run_dir: RunDir,
        *,
        model_folder: Path,
        config_changes: Mapping[str, Any] = MappingProxyType({}),
        timeout_s: float,
        bucket_bytes: int,
        retry_after_s: float,
    ) -> None:
        """Prepare.

        Args:
            run_dir: where servers register, and where folders and the policy state are published.
            model_folder: Hugging Face folder whose config and tokenizer go with the weights.
            config_changes: fields of its config.json that are others.
            timeout_s: longest time one publication waits for servers.
            bucket_bytes: size of one weights file.
            retry_after_s: see Attempts.
        """
        self._run_dir = run_dir
        self._model_folder = model_folder
        self._config_changes = config_changes
        self._timeout_s = timeout_s
        self._bucket_bytes = bucket_bytes
        self._attempts = Attempts(retry_after_s=retry_after_s)

    def pending(self) -> bool:
        """Return whether a registered server has not acknowledged the current version."""
        registered = registered_servers(self._run_dir)
        return self._attempts.is_pending(registered, read_policy_state(self._run_dir))

    def publish(self, weights: Iterable[tuple[str, Tensor]], *, version: int) -> PublishReport:
        """Have all registered servers load ``version`` and name it in the policy state."""
        started_at = time.monotonic()
        folder = self._run_dir.weights / f"version_{version:06d}"
        num_bytes = write_hf_folder(
            folder,
            weights,
            source=self._model_folder,
            config_changes=self._config_changes,
            max_shard_bytes=self._bucket_bytes,
        )
        servers = self._attempts.may_try(registered_servers(self._run_dir))
        fleet = Fleet(servers, timeout_s=self._timeout_s)
        fleet.order(lambda server: server.weight_version(timeout_s=fleet.order_timeout_s))
        path = str(folder.resolve())
        with fleet.updating(
            up_to_date=self._attempts.up_to_date,
            version=version,
            announce=lambda: announce(self._run_dir, self._attempts, fleet, version=version),
        ):
            fleet.order(lambda server: server.load_folder(path, timeout_s=self._timeout_s))
        for old in self._run_dir.weights.glob("version_*"):
            if old != folder:
                shutil.rmtree(old)
        return PublishReport(
            seconds=time.monotonic() - started_at,
            pause_s=fleet.pause_s,
            num_bytes=num_bytes,
            num_servers=len(fleet.members),
            num_sharded=0,
            received_bytes=num_bytes,
        )

    def close(self) -> None:
        """Do nothing: the publisher holds no resource."""
