"""Build folders of a code verifier: compiled programs shared by all, and a private work folder."""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from pathlib import Path

from megatron_rl.code_judging.compiler import locked
from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.interpreter import is_reachable

_ENTER_ONLY = 0o711
_PRIVATE = 0o700
_READABLE = 0o755


class BuildFolders:
    """Work folder of this process in the cache folder, and the compiled programs beside it.

    The work folder is removed with the process, the programs stay.
    """

    def __init__(self, cache_dir: str | None, *, uid: int | None, cache_mb: int) -> None:
        """Make the folders, and remove those of processes that are dead.

        Args:
            cache_dir: where; None for a folder of this user in TMPDIR.
            uid: user of the sandbox, who must be able to reach the folders; None if it is ours.
            cache_mb: size of the programs that are kept, MiB.

        Raises:
            VerifierError: another user owns the cache folder, or the sandbox cannot reach it.
        """
        self.cache = _checked(cache_dir, uid)
        self._uid = uid
        self._cache_bytes = cache_mb << 20
        self._programs = _readable_folder(self.cache / "programs")
        work = _readable_folder(self.cache / "work")
        with locked(self.cache / "lock"):
            for folder in work.iterdir():
                _remove_if_dead(folder)
            self.folder = Path(tempfile.mkdtemp(dir=work))
            self.folder.chmod(_ENTER_ONLY)
            # Held as long as this process lives, however it ends.
            self._alive = (self.folder / "alive").open("w")
            # Without locks on this file system no process will clean up after us.
            with contextlib.suppress(OSError):
                fcntl.flock(self._alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.program = _readable_folder(self.folder / "program")
        """Folder of the solution under test, which it may read."""
        self._output = self.folder / "output"

    def write_source(self, name: str, source: str) -> Path:
        """Replace the contents of the program folder by one file."""
        for old in self.program.iterdir():
            old.unlink()
        path = self.program / name
        path.write_text(source, encoding="utf-8", errors="replace")
        path.chmod(0o644)
        return path

    def link_compiler(self, path: str) -> Path:
        """Return a link to the compiler, under a name that no source can guess.

        Messages of the compiler's driver begin with that name, so no source can forge one.
        """
        link = self.program / f"{Path(path).name}-{secrets.token_hex(8)}"
        link.symlink_to(path)
        return link

    def empty_output(self) -> Path:
        """Return an empty folder that the sandbox may write."""
        if self._output.exists():
            shutil.rmtree(self._output)
        self._output.mkdir(mode=_PRIVATE)
        if self._uid is not None:
            os.chown(self._output, self._uid, self._uid)
        return self._output

    def keep(self, key: str, built: Path) -> None:
        """Keep a program that was built in the sandbox, and drop those unused for longest.

        Raises:
            VerifierError: the built program is not a plain file.
        """
        source = os.open(built, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(source).st_mode):
            os.close(source)
            raise VerifierError(f"the compiler made something odd: {built}")
        partial = self.folder / "partial"
        with os.fdopen(source, "rb") as file, partial.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        partial.chmod(0o755)
        partial.replace(self._programs / key)
        self._drop_oldest()

    def keep_failure(self, key: str, message: str) -> None:
        """Remember that a source does not compile."""
        partial = self.folder / "partial"
        partial.write_text(message)
        partial.replace(self._programs / f"{key}.txt")

    def failure(self, key: str) -> str | None:
        """Return the kept message of a source that does not compile, None if there is none."""
        try:
            return (self._programs / f"{key}.txt").read_text()
        except FileNotFoundError:
            return None

    def fetch(self, key: str) -> Path | None:
        """Link a kept program into the program folder and return it; None if it is not kept."""
        target = self.program / "main"
        target.unlink(missing_ok=True)
        try:
            # A hard link: the program stays when another process drops it from the cache.
            os.link(self._programs / key, target)
        except FileNotFoundError:
            return None
        os.utime(target)
        return target

    def free_bytes(self) -> int:
        """Return the space left on the disk."""
        return shutil.disk_usage(self.folder).free

    def close(self) -> None:
        """Remove this process's folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._alive.close()

    def _drop_oldest(self) -> None:
        kept = []
        for entry in os.scandir(self._programs):
            with contextlib.suppress(FileNotFoundError):
                kept.append((entry.stat().st_mtime, entry.stat().st_size, entry.path))
        excess = sum(size for _, size, _ in kept) - self._cache_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                return
            Path(path).unlink(missing_ok=True)
            excess -= size


def _checked(cache_dir: str | None, uid: int | None) -> Path:
    where = f"megatron-rl-{os.geteuid()}"
    cache = Path(tempfile.gettempdir(), where) if cache_dir is None else Path(cache_dir)
    remedy = "; name another folder as judge.code.cache_dir"
    try:
        cache.mkdir(mode=_PRIVATE if uid is None else _ENTER_ONLY, parents=True, exist_ok=True)
        status = cache.lstat()
    except OSError as error:
        raise VerifierError(f"cannot make {cache}: {error}{remedy}") from error
    # In a shared TMPDIR another user could have made the folder, and would choose what we run.
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise VerifierError(f"{cache} must be a folder that only this user can write{remedy}")
    if not is_reachable(str(cache), uid):
        raise VerifierError(f"the sandbox's user cannot reach {cache}{remedy}")
    return cache.resolve()


def _readable_folder(path: Path) -> Path:
    """Make a folder that the sandbox's user may read, whatever our umask says."""
    path.mkdir(exist_ok=True)
    path.chmod(_READABLE)
    return path


def _remove_if_dead(folder: Path) -> None:
    try:
        with (folder / "alive").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:  # no locks on this file system: leave the folder to the cleaner of TMPDIR
        return
    shutil.rmtree(folder, ignore_errors=True)
