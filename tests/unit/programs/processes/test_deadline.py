"""The end of a job's time: when another step with its save no longer fits."""

from megatron_rl.programs.processes.stopping import DEADLINE_VARIABLE, Deadline


def deadline(at: float, *, now: float) -> Deadline:
    return Deadline({DEADLINE_VARIABLE: str(at)}, clock=lambda: now)


def test_without_a_deadline_there_is_always_time():
    unlimited = Deadline({}, clock=lambda: 1e12)
    unlimited.note_step(1e9)
    assert not unlimited.is_near()


def test_it_is_near_once_a_step_a_save_and_what_follows_do_not_fit():
    # 1.5 * (20 + 40) + 10 = 100 s are needed.
    for now, expected in ((899.0, False), (901.0, True)):
        timed = deadline(1000.0, now=now)
        timed.note_step(20.0)
        timed.note_save(40.0)
        assert timed.is_near() is expected


def test_the_longest_step_and_the_longest_save_count():
    timed = deadline(1000.0, now=880.0)
    for seconds in (20.0, 1.0):
        timed.note_step(seconds)
    assert not timed.is_near()  # 1.5 * 20 + 10 = 40 < 120
    timed.note_save(60.0)
    timed.note_save(2.0)
    assert timed.is_near()  # 1.5 * (20 + 60) + 10 = 130 > 120


def test_a_deadline_that_is_past_is_near_though_nothing_was_measured():
    assert deadline(1000.0, now=1001.0).is_near()
