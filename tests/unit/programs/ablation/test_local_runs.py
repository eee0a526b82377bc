"""What is said of a run that failed, from the lines that it printed."""

import pytest

from megatron_rl.programs.ablation.local_runs import _last_words


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            "starting servers: started\nmegatron-rl: error: serve_0 ended with exit code 1; the "
            "last lines of serve_0.log:\nINFO x\nmegatron-rl: error: not healthy after 1 s\n",
            "serve_0 ended with exit code 1; the last lines of serve_0.log: not healthy after 1 s",
        ),
        ("Traceback ...\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("", ""),
    ],
)
def test_the_error_is_the_launchers_own_then_that_of_the_program_that_failed(printed, said):
    assert _last_words(10, printed) == f"exit code 10: {said}"
