"""A run folder that cannot be written is told with folder, reason and remedy."""

import errno
import os
from pathlib import Path

import pytest

from megatron_rl.errors import RunFolderError
from megatron_rl.programs.processes.disk_errors import disk_errors_named


def refusal(folder: Path, error: OSError) -> str:
    with pytest.raises(RunFolderError) as caught, disk_errors_named(folder):
        raise error
    return str(caught.value)


def os_error(number: int, path: Path | None) -> OSError:
    return OSError(number, os.strerror(number), None if path is None else str(path))


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space there"),
        (errno.EDQUOT, "your quota there is used up"),
        (errno.EACCES, "change its permissions"),
        (errno.EROFS, "not read-only"),
    ],
)
def test_reason_and_remedy_are_named(tmp_path, number, remedy):
    message = refusal(tmp_path, os_error(number, tmp_path / "config.json"))
    assert message.startswith(f"run_dir ({tmp_path}): {tmp_path}/config.json cannot be written: ")
    assert os.strerror(number) in message
    assert "MiB are free" in message
    assert remedy in message


def test_a_write_to_an_open_file_names_none(tmp_path):
    message = refusal(tmp_path, os_error(errno.ENOSPC, None))
    assert f"{tmp_path} cannot be written: No space left on device" in message


@pytest.mark.parametrize(
    "error",
    [os_error(errno.ENOSPC, Path("/elsewhere/file")), os_error(errno.ECONNREFUSED, None)],
)
def test_errors_that_are_not_of_the_folder_stay_what_they_are(tmp_path, error):
    with pytest.raises(OSError) as caught, disk_errors_named(tmp_path):
        raise error
    assert caught.value is error
