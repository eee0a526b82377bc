"""Errors that a user or the world can cause. Our own bugs are assertions, never these."""

from typing import ClassVar


class MegatronRLError(Exception):
    """Base of every error this package raises on purpose; its message says what to do."""


class ConfigError(MegatronRLError):
    """A configuration key, value or combination that cannot work."""


class DataError(MegatronRLError):
    """A problem or SFT file that is missing, empty or malformed; names file and line."""


class ModelError(MegatronRLError):
    """A Hugging Face model directory that cannot be read or is not understood."""


class GeneratorRequestError(MegatronRLError):
    """A generator refused a request that would be refused again (HTTP 4xx)."""


class GeneratorTimeoutError(GeneratorRequestError):
    """A completion took longer than it may; on another server it would take as long."""


class GeneratorUnavailableError(MegatronRLError):
    """A generator did not answer in spite of retries; another generator may answer."""


class ServerStartError(MegatronRLError):
    """A generation server died or stayed unhealthy while starting; carries its last log lines."""


class WeightSyncError(MegatronRLError):
    """A generator did not acknowledge a published policy version."""


class VerifierError(MegatronRLError):
    """A verifier crashed or ran out of time. This is not a wrong answer."""


class BatchFileError(MegatronRLError):
    """A batch file that is missing, damaged or of another format version."""


class TrainingError(MegatronRLError):
    """Training that cannot go on, such as gradients that stay NaN; names the batches."""


class BarrenError(MegatronRLError):
    """Groups that all taught nothing, for as long as may be; says why, with one response."""


class CheckpointError(MegatronRLError):
    """A checkpoint that cannot be written, is incomplete or does not fit the run."""


class RunFolderError(MegatronRLError):
    """The run folder cannot be written: a full disk, a quota, permissions."""


class SlurmError(MegatronRLError):
    """Slurm refused what it was asked, or did not answer."""


class ProgramError(MegatronRLError):
    """A supervised program failed; names the program, its exit code and its last log lines."""

    EXIT_CODES: ClassVar[dict[str, int]] = {
        "serve": 10,
        "rollout": 11,
        "learn": 12,
        "sft": 13,
        "select": 13,
        "doctor": 14,
        "check-node": 14,
        "all-reduce": 14,
        "gpu-check": 1,
    }
    """Exit code of the launcher when this program failed."""

    def __init__(self, program: str, message: str) -> None:
        super().__init__(message)
        self.program = program

    @property
    def exit_code(self) -> int:
        """The launcher's exit code."""
        return self.EXIT_CODES[self.program]


class Interrupted(MegatronRLError):
    """The user or the scheduler asked the program to stop; what is finished is saved."""
