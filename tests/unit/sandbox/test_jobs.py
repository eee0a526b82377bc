"""Jobs and outcomes survive the pipe."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_rl.errors import VerifierError
from megatron_rl.sandbox.jobs import (
    Job,
    Limits,
    Outcome,
    receive_job,
    receive_reply,
    send_job,
    send_reply,
)

LIMITS = Limits(
    cpu_s=1.5,
    wall_s=2.0,
    memory_mb=300,
    stack_mb=8,
    output_bytes=10,
    file_bytes=20,
    may_fork=False,
)
OUTCOME = Outcome(
    ending="exited", code=1, stdout=b"a", stderr=b"b", cpu_s=0.1, wall_s=0.2, memory_mb=3.5
)


@given(st.binary(), st.lists(st.text(), min_size=1))
def test_a_job_arrives_as_it_was_sent(stdin, argv):
    job = Job(
        argv=tuple(argv), readable=("/a",), writable=None, folder="/", stdin=stdin, limits=LIMITS
    )
    pipe = io.BytesIO()
    send_job(pipe, job)
    pipe.seek(0)
    assert receive_job(pipe) == job
    assert receive_job(pipe) is None


def test_an_outcome_arrives_as_it_was_sent():
    pipe = io.BytesIO()
    send_reply(pipe, OUTCOME)
    pipe.seek(0)
    assert receive_reply(pipe) == OUTCOME


def test_a_failure_of_the_sandbox_is_an_error_and_no_outcome():
    pipe = io.BytesIO()
    send_reply(pipe, "no space")
    pipe.seek(0)
    with pytest.raises(VerifierError, match="the sandbox failed: no space"):
        receive_reply(pipe)


@pytest.mark.parametrize("kept", [0, 3, 8, 20])
def test_a_reply_that_is_cut_off_is_an_error(kept):
    pipe = io.BytesIO()
    send_reply(pipe, OUTCOME)
    with pytest.raises(VerifierError, match="ended"):
        receive_reply(io.BytesIO(pipe.getvalue()[:kept]))
