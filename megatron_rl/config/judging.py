"""Settings of the judge and of the reward."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from megatron_rl.config.base import LaxPath, NonNegative, Pair, Positive, Seconds, Section

JudgeUrl = Annotated[str, StringConstraints(pattern=r"^http://[^/\s]+:\d+$")]
FunctionName = Annotated[str, StringConstraints(pattern=r"^[^:]+:[A-Za-z_]\w*$")]


class CodeConfig(Section):
    """Limits and sandbox within which solutions to code problems are compiled and tested."""

    sandbox: Literal["auto", "bubblewrap", "landlock"] = "auto"
    """Sandbox of solutions; auto is the first that passes its self-test. If none passes, no
    solution is run."""
    num_tests: Positive = 20
    """Tests of a problem, drawn with a seed from its id, so that a group shares them."""
    run_all: bool = False
    """Run every drawn test instead of stopping at the first failure: measures the fraction."""
    test_s: Seconds = 4.0
    """Longest processor time of one test."""
    memory_mb: Annotated[int, Field(ge=64)] = 300
    """Largest resident memory of one test, MiB."""
    output_mb: Positive = 16
    """Largest output of one test, MiB."""
    compile_s: Seconds = 10.0
    """Longest processor time of the compiler."""
    compile_memory_mb: Annotated[int, Field(ge=512)] = 2048
    """Largest resident memory of the compiler, MiB."""
    wall_factor: Annotated[float, Field(ge=1)] = 3.0
    """Time by the clock over processor time: a busy machine must not fail a solution."""
    float_tolerance: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    """Largest absolute or relative error where a problem says "tolerance": true."""
    cache_dir: LaxPath | None = None
    """Folder on a local disk for compiled solutions and the precompiled header (123 MB); a folder
    of the user's in TMPDIR when not given."""
    cache_mb: Positive = 512
    """Size of the compiled solutions that are kept, MiB."""


class JudgeConfig(Section):
    """The pool of verifier processes."""

    num_workers: NonNegative = 1
    """Verifier processes on this machine; 0 leaves all work to ``urls``."""
    deadline_s: Seconds = 10.0
    """Longest execution of one verdict; queueing does not count."""
    max_retries: NonNegative = 1
    """Attempts after a crash or time-out before the completion's group is dropped by name."""
    quick_s: Seconds = 0.1
    """A verdict that runs longer moves to the slow lane: a quarter of the workers, and at least two
    (one of two or three), is kept for verdicts that may still be quick."""
    max_queue: Positive = 4096
    """Completions without a verdict at which generation waits for the judge."""
    memory_mb: Annotated[int, Field(ge=256)] = 2048
    """Largest memory of one worker, MiB; a verdict that needs more fails. A worker that holds half
    of it is replaced."""
    recycle_after: Positive = 2000
    """Verdicts after which a worker is replaced."""
    code: CodeConfig = CodeConfig()
    verifiers: dict[str, FunctionName] = Field(default_factory=dict)
    """Verifiers of your own, by kind of problem: "module:function" or "path/file.py:function"."""
    urls: tuple[JudgeUrl, ...] = Field(default=(), strict=False)
    """Judges on other machines, see ``megatron-rl judge``."""
    key_file: LaxPath | None = None
    """File with the API key of ``urls``; the variable MEGATRON_RL_JUDGE_KEY when not given."""
    remote_wait_s: Seconds = 60.0
    """Longest time to wait for a judge to come back when none is left."""


class RewardConfig(Section):
    """Parts of the reward (arXiv:2506.10910, section 2.2), and the form of a response."""

    thinking: Literal["auto", "none", "harmony"] | Pair = "auto"
    """Marks of the thoughts: "auto" recognises them from tokenizer and chat template (``<think>``
    where there is no model, as in ``megatron-rl verify``); two tags, ["<think>", "</think>"];
    "harmony" for the channels of gpt-oss; "none" makes the whole response the answer."""
    format: float = 0.1
    """Reward of a well-formed response; any other response gets 0 in total."""
    correctness: float = 0.9
    """Reward of a right answer."""
    language: Annotated[float, Field(ge=0)] = 0.1
    """Reward of problem, thoughts and answer in one language; 0 does not check it."""
    proportional_code: bool = False
    """Pay ``correctness`` for the fraction of a code problem's tests that pass, not for all or
    nothing; the paper finds it worse (section 6)."""
    length_penalty: Annotated[float, Field(ge=0)] = 0.1
    """Largest deduction for length; 1.0 with a fifth of max_new_tokens as length_cache is DAPO's
    overlong penalty."""
    length_cache: Positive | None = None
    """Tokens before max_new_tokens over which the deduction grows; a fifth of it when not given."""
    truncated: Literal["grade", "zero", "mask"] = "grade"
    """A completion that is cut off at max_new_tokens is graded like any other, earns 0 in total, or
    is graded and kept out of the loss (DAPO's overlong filtering); its reward then still counts in
    its group's mean and deviation."""


class JudgingConfig(Section):
    """The sections of a run that grading alone needs."""

    judge: JudgeConfig = JudgeConfig()
    reward: RewardConfig = RewardConfig()
