from megatron_rl.report.hang.findings import Observed, explain_states, explain_waits, ranks_text
from megatron_rl.report.hang.processes import RunProcess
from megatron_rl.report.hang.waits import Kind, Wait

CALLER = "update (megatron_rl/learner/learner.py:88)"


def rank(number: int, kind: Kind, what: str, *, caller: str = CALLER, world: int = 4) -> Observed:
    process = RunProcess(pid=100 + number, program="learn", rank=number, world_size=world)
    return Observed(process=process, wait=Wait(kind=kind, what=what, caller=caller))


def test_ranks_are_written_with_runs_joined():
    assert ranks_text([3]) == "rank 3"
    assert ranks_text([5, 0, 2, 1]) == "ranks 0-2, 5"


def test_the_rank_that_is_not_there_is_waited_for():
    ranks = [rank(n, "collective", "all_reduce") for n in (0, 1, 3)]
    ranks.append(rank(2, "elsewhere", "sleep_here (odd.py:5)"))
    assert explain_waits(ranks) == [
        f"Ranks 0-1, 3 wait in all_reduce, called by {CALLER}, for rank 2, which is not there: "
        "rank 2 in sleep_here (odd.py:5)."
    ]


def test_a_known_wait_is_said_in_words():
    ranks = [rank(1, "collective", "all_reduce", world=2)]
    ranks.append(rank(0, "known", "waits for the servers to answer", world=2))
    (sentence,) = explain_waits(ranks)
    assert sentence.endswith(
        "for rank 0, which is not there: rank 0 waits for the servers to answer."
    )


def test_ranks_in_different_collectives_are_set_against_each_other():
    ranks = [rank(n, "collective", "all_reduce") for n in (0, 1, 2)]
    ranks.append(rank(3, "collective", "broadcast", caller="publish (x.py:1)"))
    (sentence,) = explain_waits(ranks)
    assert sentence.startswith(
        f"Ranks are in different collectives: ranks 0-2 in all_reduce, called by {CALLER}; "
        "rank 3 in broadcast, called by publish (x.py:1). Of one process group, they wait for each "
    )


def test_one_collective_at_two_places_counts_as_two():
    ranks = [rank(0, "collective", "all_reduce", caller=f"f (a.py:{n})", world=2) for n in (1, 2)]
    assert explain_waits(ranks)[0].startswith("Ranks are in different collectives")


def test_all_in_one_collective_are_held_up_by_something_else():
    ranks = [rank(n, "collective", "barrier", world=2) for n in (0, 1)]
    assert explain_waits(ranks) == [
        f"Every rank that is here, ranks 0-1, is in barrier, called by {CALLER}. None of them "
        "lags behind in Python: the network, or a rank that is not here or stopped, holds them up."
    ]


def test_what_the_system_holds_up_is_said_first():
    states = {"learn": "T", "rollout": "D", "serve": "S"}
    processes = [
        RunProcess(pid=7, program=program, rank=None, world_size=None, state=state)
        for program, state in states.items()
    ]
    assert explain_states(processes) == [
        "Learn (process 7) is stopped by a signal; kill -CONT 7 lets it go on.",
        "Rollout (process 7) waits in the kernel for a device or a file system, which no signal "
        "ends.",
    ]


def test_what_a_gpu_is_in_is_not_claimed_to_be_known():
    ranks = [rank(n, "device", "waits for its GPU", world=2) for n in (0, 1)]
    (sentence,) = explain_waits(ranks)
    assert sentence.startswith("Ranks 0-1 wait for the GPU. What the GPU is in")


def test_ranks_of_other_machines_are_named_as_missing():
    sentences = explain_waits([rank(n, "collective", "barrier", world=8) for n in range(4)])
    assert sentences[-1] == "Ranks 4-7 of 8 are not here: on another machine, or ended."


def test_without_a_collective_each_rank_is_where_it_is():
    assert explain_waits([rank(0, "elsewhere", "load (a.py:1)", world=1)]) == [
        "No rank is in a collective: rank 0 in load (a.py:1)."
    ]
    assert explain_waits([]) == []
