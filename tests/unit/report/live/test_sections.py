from megatron_rl.registry import PolicyState, RestartRequest, ServerInfo
from megatron_rl.report.live.run_state import RunState
from megatron_rl.report.live.sections import (
    logs_html,
    queues_html,
    servers_html,
    stages_html,
    state_html,
)
from megatron_rl.transfers import ServerTransfer

NOW = 1_000.0
TRAINING = RunState(
    state="running", phase="training", step=3, num_steps=10, step_began=NOW - 5, usual_step_s=10.0
)
STEPS = [{"step": 2, "time": 980.0}, {"step": 3, "time": 990.0}]


def server(name: str, *, incarnation: str = "abcdef0123", waits: bool = True) -> ServerInfo:
    return ServerInfo(
        name=name, incarnation=incarnation, url="http://10.0.0.1:30000", api_key="s3cret", pid=7,
        tp=2, starts_without_weights=waits, takes_shards=False,
    )  # fmt: skip


def test_the_state_says_how_far_and_how_long_still():
    html = state_html(TRAINING, STEPS, now=NOW, last_sign=0.0)
    # 7 steps of 10 s are left, 10 s of which have passed.
    assert "training, step 3 of 10, this step takes 5 s so far, about 1 min 00 s left" in html
    assert '<span class="state running">running</span>' in html


def test_a_stopped_run_says_since_when():
    state = RunState(
        state="stopped", phase="", step=3, num_steps=10, step_began=None, usual_step_s=None
    )
    html = state_html(state, STEPS, now=NOW, last_sign=NOW - 90)
    assert "step 3 of 10, last sign of life 1 min 30 s ago" in html
    assert "left" not in html


def test_stages_are_behind_now_or_ahead():
    phases = [
        {"phase": "cold start", "start": 0.0, "end": 50.0},
        {"phase": "cold start", "start": 60.0, "end": 70.0},
    ]
    html = stages_html(TRAINING, phases, None, now=NOW)
    assert 'class="stage done">cold start <span class="muted">1 min 00 s</span>' in html
    assert 'class="stage now">training<' in html
    assert 'class="stage ahead">evaluation<' in html


def test_roles_of_a_job_are_listed_and_its_words_are_escaped():
    role = {"name": "learn", "nodes": [f"n{i}" for i in range(5)], "since": 940.0, "restarts": 1}
    job = {
        "job": "77", "attempt": 2, "state": "training", "message": "<b>disk</b>",
        "roles": [role | {"exit_code": None}, role | {"name": "serve_0", "exit_code": 137}],
    }  # fmt: skip
    html = stages_html(TRAINING, [], job, now=NOW)
    assert "job 77, attempt 2: training" in html and "&lt;b&gt;disk&lt;/b&gt;" in html
    assert "<td>learn</td><td>n0 ... n4 (5)</td><td>for 1 min 00 s</td><td>1</td>" in html
    assert "<td>exit code 137</td>" in html


def test_a_server_shows_the_version_it_acknowledged_and_never_its_key():
    policy = PolicyState(version=12, servers={"a": "abcdef0123", "b": "another life"})
    servers = {"a": server("a"), "b": server("b"), "c": server("c", waits=False)}
    html = servers_html(servers, policy, {}, {})
    assert "<td>a</td><td>version 12</td>" in html
    assert "<td>b</td><td>waits for weights</td>" in html
    assert "<td>c</td><td>the model it started with</td>" in html
    assert "s3cret" not in html and "<td>abcdef01</td>" in html


def test_a_server_that_is_to_start_again_says_why():
    request = RestartRequest(incarnation="abcdef0123", cause="publication 7")
    html = servers_html({"a": server("a")}, None, {"a": request}, {})
    assert "is to start again: publication 7" in html
    of_before = RestartRequest(incarnation="gone", cause="publication 6")
    assert "again" not in servers_html({"a": server("a")}, None, {"a": of_before}, {})


def test_queues_of_judge_and_learner():
    latest = {"judge/queue": 1200.0, "judge/latency_p99_s": 2.5, "reward/total": 1.0}
    policy = PolicyState(version=8, servers={})
    html = queues_html(latest, batches=[9, 8, 7], policy=policy)
    assert "<td>waiting for a verifier</td><td>1,200</td>" in html
    assert "<td>99th percentile</td><td>2.50 s</td>" in html
    # Batches 8 and 9 are not trained on at version 8.
    assert "<td>batches the learner has not trained on</td><td>2</td>" in html
    assert "No batch yet." in queues_html({}, batches=[], policy=None)


def test_names_of_logs_are_escaped():
    html = logs_html(['<x>".log'])
    assert 'data-log="&lt;x&gt;&quot;.log"' in html


def test_a_server_says_how_its_weights_came():
    by_shards = ServerTransfer(transport="shards", rank_bytes=23_600_000, seconds=0.125, reason="")
    whole = ServerTransfer(
        transport="broadcast", rank_bytes=47_100_000, seconds=0.0, reason="w <b> differs"
    )
    html = servers_html({"a": server("a")}, None, {}, {"a": by_shards})
    assert "by shards, 23.6 MB a rank, 0.12 s" in html
    html = servers_html({"a": server("a")}, None, {}, {"a": whole})
    assert "whole, by broadcast, 47.1 MB a rank; not by shards: w &lt;b&gt; differs" in html
