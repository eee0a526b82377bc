"""Background checkpoint writer: a thread of every rank writes while training goes on.

Megatron plans which rank writes what and finishes the checkpoint; only its worker processes are
replaced. It forks them, and a fork of a process that computes shares memory until one side writes:
on a CPU the next optimiser step then costs 4 to 11 times what copying the state beforehand does,
beside the hazards of forking a process with threads. A thread needs a copy (on the host, allocated
once), can report whatever goes wrong, and leaves no process behind when the run is killed.
"""

import queue
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, is_main_replica
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.base import AsyncSaveShardedStrategy
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from megatron.core.dist_checkpointing.strategies.fully_parallel import (
    FullyParallelSaveStrategyWrapper,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from megatron_rl.errors import CheckpointError
from megatron_rl.learner.checkpoint.integrity import write_file_list
from megatron_rl.learner.checkpoint.megatron_format import (
    checkpoint_errors,
    content_metadata,
    replica_group,
)
from megatron_rl.learner.checkpoint.model_identity import write_model_facts
from megatron_rl.learner.checkpoint.steps import name_latest, partial_folder, step_folder
from megatron_rl.learner.device.platform import Platform
from megatron_rl.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedCheckpoint:
    """A checkpoint that is complete and named."""

    step: int
    total_s: float
    """Seconds from its beginning to its name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pending:
    root: Path
    step: int
    started: float
    request: AsyncRequest
    written: "Future[None]"


class CheckpointWriter:
    """Writes one checkpoint at a time. Every method is a collective of all ranks."""

    def __init__(self, spec: ModelSpec, platform: Platform) -> None:
        """Write no files yet.

        Args:
            spec: of the model, whose facts are left beside every checkpoint.
            platform: on whose device ranks exchange whether they are done.
        """
        self._spec, self._platform = spec, platform
        self._strategy: _StagedSave | None = None
        self._pending: _Pending | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def start(self, root: Path, step: int, state: dict[str, Any], *, in_background: bool) -> None:
        """Write the state as it is now; training may change it as soon as this returns.

        Args:
            state: sharded state of everything, in Megatron's terms.
            in_background: return once the state is copied; else when this rank has written it.

        Raises:
            CheckpointError: it cannot be written. In the background: ``finish`` says so.
        """
        assert self._pending is None, f"{root}: one checkpoint at a time"
        started = time.monotonic()
        partial = partial_folder(root, step)
        _on_first_rank(lambda: _make_empty(partial), f"{partial}: cannot be written")
        is_first_time = self._strategy is None
        if self._strategy is None:
            self._strategy = _StagedSave(self._platform)
        self._strategy.is_staging = in_background
        _keep_results_in_this_process()
        with checkpoint_errors(f"{partial}: cannot be written"):
            request = dist_checkpointing.save(
                state,
                str(partial),
                self._strategy,
                # Gathers what all ranks hold, which does not change from save to save.
                validate_access_integrity=is_first_time,
                async_sharded_save=True,
                content_metadata=content_metadata(),
            )
        if in_background:
            written = self._thread.submit(_write, request)
        else:
            written = Future()
            _run_into(written, request)
        self._pending = _Pending(
            root=root, step=step, started=started, request=request, written=written
        )

    def finish(self, *, wait: bool) -> SavedCheckpoint | None:
        """Name the checkpoint that is being written if all ranks have written their parts.

        Args:
            wait: for it; otherwise return None while a rank is writing.

        Raises:
            CheckpointError: a rank could not write; names the folder.
        """
        pending = self._pending
        if pending is None:
            return None
        if wait:
            wait_for([pending.written])
        partial = partial_folder(pending.root, pending.step)
        if not self._is_written_everywhere(pending.written, partial):
            return None
        self._pending = None
        with checkpoint_errors(f"{partial}: cannot be written"):
            for finalize in pending.request.finalize_fns:
                finalize()
        _on_first_rank(lambda: self._name(pending, partial), f"{partial}: cannot be named")
        return SavedCheckpoint(step=pending.step, total_s=time.monotonic() - pending.started)

    def _is_written_everywhere(self, written: "Future[None]", partial: Path) -> bool:
        failure = written.exception() if written.done() else None
        flags = torch.tensor(
            [not written.done(), failure is not None], device=self._platform.device
        ).int()
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        is_running, has_failed = flags.tolist()
        if has_failed:
            self._pending = None
            causes: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(causes, None if failure is None else repr(_cause(failure)))
            first = next(cause for cause in causes if cause is not None)
            raise CheckpointError(f"{partial}: cannot be written: {first}") from failure
        return not is_running

    def _name(self, pending: _Pending, partial: Path) -> None:
        write_model_facts(partial, self._spec)
        write_file_list(partial)
        final = step_folder(pending.root, pending.step)
        shutil.rmtree(final, ignore_errors=True)
        partial.replace(final)
        name_latest(pending.root, pending.step)


class _StagedSave(AsyncSaveShardedStrategy):
    """Megatron's torch_dist format, shared out over replicas, from copies on the host.

    A class because Megatron takes nothing else. Kept from save to save, so that ranks agree once
    on which of them writes what, and the copies have their memory already.
    """

    def __init__(self, platform: Platform) -> None:
        super().__init__("torch_dist", 1)
        self._platform = platform
        # What a rank saves never changes, so plans are gathered for the first two saves only, which
        # Megatron compares.
        self._format = TorchDistSaveShardedStrategy("torch_dist", 1, cached_metadata=True)
        self._sharing = FullyParallelSaveStrategyWrapper(self._format, replica_group(), True)
        self._copies: dict[Any, torch.Tensor] = {}
        self.is_staging = False

    @property
    def can_handle_sharded_objects(self) -> bool:
        return self._format.can_handle_sharded_objects

    def async_save(self, sharded_state_dict: Any, checkpoint_dir: Any) -> AsyncRequest:
        self._sharing.apply_saving_parallelization(sharded_state_dict)
        if self.is_staging:
            copied: dict[tuple[int, int], torch.Tensor] = {}
            for tensor in nested_values(sharded_state_dict):
                if isinstance(tensor, ShardedTensor) and is_main_replica(tensor.replica_id):
                    # In float32 the optimiser's copy of a weight can be the weight itself.
                    place = (tensor.data.data_ptr(), tensor.data.numel())
                    if place not in copied:
                        copied[place] = self._copy(tensor)
                    tensor.data = copied[place].view(tensor.data.shape)
            self._platform.synchronize()  # the copies that were started above
        return self._format.async_save(sharded_state_dict, checkpoint_dir)

    def _copy(self, tensor: ShardedTensor) -> torch.Tensor:
        name = (tensor.key, tensor.global_offset)
        if name not in self._copies:
            # A storage of its own each: Megatron copies views once more.
            self._copies[name] = self._platform.host_buffer(tensor.data)
        self._platform.start_copy(tensor.data.detach(), self._copies[name])
        return self._copies[name]


def _write(request: AsyncRequest) -> None:
    """Write this rank's files; what Megatron's worker processes do."""
    if request.async_fn is None:  # nothing to write on this rank
        return
    transforms, _ = request.async_fn.args  # of a functools.partial
    _, buckets, results = request.async_fn_args
    written = {}
    for index, bucket in enumerate(buckets):
        outcomes: queue.SimpleQueue[Any] = queue.SimpleQueue()
        counts: queue.Queue[int] = queue.Queue()
        counts.put(index)
        FileSystemWriterAsync.write_preloaded_data(
            transforms, index, bucket, outcomes, counts, True
        )
        _, outcome = outcomes.get()
        if isinstance(outcome, Exception):
            raise outcome
        written[index] = outcome
    results.put(written)


def _run_into(written: "Future[None]", request: AsyncRequest) -> None:
    """Write now; a failure is kept, as a thread's is, for all ranks to learn of it."""
    if request.async_fn is not None:
        rank, _, results = request.async_fn_args
        request = request._replace(async_fn_args=(rank, request.preload_fn(), results))
    try:
        _write(request)
    except (OSError, RuntimeError) as error:  # torch's file writer makes a RuntimeError of some
        written.set_exception(error)
    else:
        written.set_result(None)


def _cause(failure: BaseException) -> BaseException:
    """Return the OSError behind a failure: torch's file writer raises over it as it closes."""
    error: BaseException | None = failure
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return failure if error is None else error


def _keep_results_in_this_process() -> None:
    """Let Megatron's writer hand its results over in a queue, instead of starting a server."""
    assert hasattr(filesystem_async, "_results_queue"), "of megatron-core 0.16"
    filesystem_async._results_queue = queue.Queue()


def _make_empty(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _on_first_rank(act: Callable[[], None], what: str) -> None:
    """Act on rank 0 while the others wait; all raise when it fails."""
    failure: list[str | None] = [None]
    if dist.get_rank() == 0:
        try:
            act()
        except OSError as error:
            failure = [repr(error)]
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise CheckpointError(f"{what}: {failure[0]}")
