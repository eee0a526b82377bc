"""Disk errors of a run folder, told with folder, reason and remedy."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from megatron_rl.errors import RunFolderError

_REMEDIES = {
    errno.ENOSPC: "free space there, or put run_dir elsewhere",
    errno.EDQUOT: "your quota there is used up: remove something, or put run_dir elsewhere",
    errno.EACCES: "you may not write there: change its permissions, or put run_dir elsewhere",
    errno.EROFS: "put run_dir on a file system that is not read-only",
    errno.ESTALE: "the file system was mounted anew: submit again",
}


@contextlib.contextmanager
def disk_errors_named(folder: Path) -> Iterator[None]:
    """Turn an OSError about something in ``folder``, or about no file at all, into our own.

    Raises:
        RunFolderError: names the folder, the reason and the remedy.
    """
    try:
        yield
    except OSError as error:
        # An error that names another file is no error of the run folder; a write to an open file
        # names none.
        if error.filename is not None and not Path(error.filename).is_relative_to(folder):
            raise
        if error.errno not in _REMEDIES:
            raise
        what = folder if error.filename is None else error.filename
        raise RunFolderError(
            f"run_dir ({folder}): {what} cannot be written: {error.strerror}{_free(folder)}; "
            f"{_REMEDIES[error.errno]}"
        ) from error


def _free(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free // 2**20} MiB are free)"
    except OSError:
        return ""
