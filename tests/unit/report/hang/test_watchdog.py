from megatron_rl.report.hang.watchdog import (
    TimedOut,
    WatchdogReport,
    explain_watchdog,
    read_watchdog,
)

# As torch 2.6 to 2.9 print them.
LATE = (
    "[rank{rank}]:[E810 03:04:11.061 ProcessGroupNCCL.cpp:683] [Rank {rank}] Watchdog caught "
    "collective operation timeout: WorkNCCL(SeqNum=78, OpType=BROADCAST, NumelIn=80, NumelOut=80, "
    "Timeout(ms)=600000) ran for 600096 milliseconds before timing out."
)
LAST = (
    "[rank{rank}]:[E227 16:30:43.526 ProcessGroupNCCL.cpp:1785] [PG ID 2 PG GUID 3 Rank {rank}] "
    "Exception (either an error or timeout) detected by watchdog at work: {enqueued}, last "
    "enqueued NCCL work: {enqueued}, last completed NCCL work: {completed}."
)


def test_numbers_of_the_watchdog_are_read():
    lines = [
        "2026-01-01 INFO step 3",
        LATE.format(rank=1),
        LAST.format(rank=1, enqueued=79, completed=77),
    ]
    assert read_watchdog(lines) == (
        [WatchdogReport(rank=1, group="2", enqueued=79, completed=77)],
        [TimedOut(rank=1, number=78, operation="BROADCAST", seconds=600.096)],
    )


def test_a_dump_signal_tells_the_same_in_other_letters():
    line = (
        "[rank4]:[E703 ProcessGroupNCCL.cpp:1987] [PG ID 0 PG GUID 0(default_pg) Rank 4] Received "
        "a dump signal due to a collective timeout from  rank 7 and we will try our best to dump "
        "the debug info. Last enqueued NCCL work: 5, last completed NCCL work: 5.This is most"
    )
    assert read_watchdog([line])[0] == [WatchdogReport(rank=4, group="0", enqueued=5, completed=5)]


def test_the_rank_that_had_not_come_to_the_last_collective_is_named():
    lines = [LATE.format(rank=rank) for rank in (0, 1, 3)]
    lines += [LAST.format(rank=rank, enqueued=78, completed=77) for rank in (0, 1, 3)]
    lines += [LAST.format(rank=2, enqueued=77, completed=77)]
    assert explain_watchdog(*read_watchdog(lines)) == [
        "NCCL gave up collective 78 (BROADCAST) of ranks 0-1, 3 after 600 s.",
        "The last collective of process group 2 that a rank asked for is number 78; not all have "
        "come to it: rank 2 at 77. The others wait for these.",
    ]


def test_a_log_without_a_watchdog_says_nothing():
    assert explain_watchdog(*read_watchdog(["step 1", "[rank0]: hello"])) == []
