"""Limits within which solutions are compiled and tested."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeLimits:
    """Settings of a code verifier, plain JSON; the fields of the config section ``judge.code``."""

    sandbox: str
    """``auto`` or a backend by name."""
    num_tests: int
    """Tests drawn of each problem."""
    run_all: bool
    """Go on after a failed test, to measure the fraction that passes."""
    test_s: float
    """Processor time of one test."""
    memory_mb: int
    """Resident memory of one test, MiB."""
    output_mb: int
    """Output of one test, MiB."""
    compile_s: float
    """Processor time of the compiler."""
    compile_memory_mb: int
    """Resident memory of the compiler, MiB."""
    wall_factor: float
    """Time by the clock over processor time, for tests and for the compiler."""
    float_tolerance: float
    """Tolerance of floats where a problem says ``"tolerance": true``."""
    cache_dir: str | None
    """Folder of the precompiled header and of compiled solutions; None for one in TMPDIR."""
    cache_mb: int
    """Size of the compiled solutions that are kept, MiB."""

    @property
    def longest_verdict_s(self) -> float:
        """Return the longest time of a verdict by the clock, which is the judge's deadline."""
        return self.wall_factor * (self.compile_s + self.num_tests * self.test_s)
