"""Steps of a job on a real Slurm: how they end, what they inherit, what preflight finds out."""

import json
import re
import shutil
import subprocess
import time

import pytest
from cluster import num_stand_ins
from pretend import FOREVER, saves_when_told, write_pretenders
from tiny_run import REPOSITORY, wait_for

from megatron_rl.run_dir import RunDir

PROMISED_S = 30.0
NO_LOOK = "launch.preflight=false"
EXPORT = "--export=PYTHONPATH,MEGATRON_RL"
"""Slurm has srun do the same then: the steps' own variables would not get through."""
FAILS_SOON = "sleep 3; exit 3"
DEAF = f"trap '' TERM USR1; {FOREVER}"

pytestmark = pytest.mark.system


def seconds_from_failure_to_end(submitted, step: str) -> float:
    """Wait for the end of the job; return how long after the first exit of a step that was."""
    folder = RunDir(submitted.run_dir).attempt_logs(submitted.job, 0) / "exits"
    wait_for(lambda: list(folder.glob(f"{step}_*")))
    first = min(float(path.read_text().split()[1]) / 1e9 for path in folder.glob(f"{step}_*"))
    submitted.end(within_s=60)
    wait_for(lambda: not submitted.survivors(), within_s=60)
    return time.time() - first


def test_ranks_that_do_not_listen_are_gone_within_30_s_of_anothers_failure(submit, tmp_path):
    """With Slurm's own KillWait (30 s) and the default teardown_s."""
    python = write_pretenders(
        tmp_path,
        {
            "learn": f"[ $SLURM_PROCID = 1 ] && {{ {FAILS_SOON}; }}; {DEAF}",
            "serve": DEAF,
            "rollout": DEAF,
        },
    )
    submitted = submit(
        *(NO_LOOK, python, "learner.num_processes=2", "launch.placement.learner_nodes=2"),
        *("generators.num_servers=4",),
        nodes=2,
    )
    seconds = seconds_from_failure_to_end(submitted, "learn")
    assert submitted.end(within_s=1) == ("FAILED", 12), submitted.output
    assert "learn ended with exit code 3 (task 1)" in submitted.output
    print(f"torn down in {seconds:.1f} s")
    assert seconds < PROMISED_S


def test_healthy_nodes_are_looked_at_within_30_s(submit, tmp_path):
    python = write_pretenders(tmp_path, {"learn": FAILS_SOON})
    submitted = submit(
        *(python, "learner.num_processes=2", "launch.placement.learner_nodes=2"),
        *("launch.teardown_s=2.0",),
        nodes=3,
    )
    assert submitted.end() == ("FAILED", 12), submitted.output
    took = re.search(r"preflight took ([\d.]+) s", submitted.output)
    assert took is not None, submitted.output
    print(took[0])
    assert float(took[1]) < PROMISED_S


def test_a_node_that_does_not_see_the_run_folder_says_so_itself(submit, slurm, tmp_path):
    if not slurm.has_networks:
        pytest.skip("nodes without mounts of their own see everything")
    shared, local = tmp_path / "bin", tmp_path / "runs"
    shared.mkdir(), local.mkdir()
    python = write_pretenders(shared, {})
    with slurm.hidden_from("n2", local):
        submitted = submit(python, nodes=2, run_dir=local / "run")
        assert submitted.end() == ("FAILED", 14), submitted.output
    assert "n2: " + str(local / "run/preflight") + " is not the head node's" in submitted.output
    assert "no answer" not in submitted.output


def test_a_node_that_takes_its_own_name_for_loopback_is_named(submit, slurm, tmp_path):
    if not slurm.has_networks:
        pytest.skip("nodes without names of their own have none to get wrong")
    with slurm.named_loopback("n2"):
        submitted = submit(write_pretenders(tmp_path, {}), nodes=2)
        assert submitted.end() == ("FAILED", 14), submitted.output
    assert "n2: its own name n2 is 127.0.1.1 here" in submitted.output
    assert "n1: " not in submitted.output


def test_options_and_variables_of_the_job_are_not_those_of_its_steps(submit, tmp_path):
    say = 'echo "MARK=$MARK nodes=$SLURM_STEP_NUM_NODES"'
    python = write_pretenders(
        tmp_path, {"learn": f"{say}; {FAILS_SOON}", "serve": f"{say}; {DEAF}"}
    )
    submitted = submit(
        *(NO_LOOK, python, "launch.env={MARK='seen'}", "launch.teardown_s=1.0"),
        *("learner.num_processes=2", "launch.placement.learner_nodes=2"),
        nodes=2,
        # The last one is what the tests themselves need.
        options=("--ntasks-per-node=4", "--hint=nomultithread", "--overcommit", EXPORT),
    )
    assert submitted.end() == ("FAILED", 12), submitted.output
    logs = RunDir(submitted.run_dir).attempt_logs(submitted.job, 0)
    assert "MARK=seen nodes=2" in (logs / "learn_0.log").read_text()
    assert "MARK=seen nodes=1" in (logs / "serve_0.log").read_text()


@pytest.mark.slow
def test_slurms_own_signal_has_the_job_queue_itself_and_go_on(submit, tmp_path):
    """Slurm counts limits in minutes, and signals half a minute early at least."""
    learn = f"[ ${{SLURM_RESTART_COUNT:-0}} = 1 ] && exit 3; {saves_when_told(0)}"
    python = write_pretenders(tmp_path, {"learn": learn})
    submitted = submit(
        *(NO_LOOK, python, "launch.teardown_s=2.0", "learner.num_processes=2"),
        options=("--time=3", "--signal=B:USR1@90"),
    )
    run_dir = RunDir(submitted.run_dir)
    second = run_dir.attempt_logs(submitted.job, 1) / "exits/learn_0"
    wait_for(lambda: submitted.is_over or second.exists(), within_s=180)
    assert submitted.end() == ("FAILED", 12), submitted.output
    assert "time is up; it queues itself again" in submitted.output
    first = run_dir.attempt_logs(submitted.job, 0)
    for rank in range(2):
        assert "saved" in (first / f"learn_{rank}.log").read_text()
        assert (first / f"exits/learn_{rank}").read_text().startswith("75 ")


def test_a_second_job_in_a_run_folder_that_is_in_use_is_refused(submit, slurm, tmp_path):
    python = write_pretenders(tmp_path, {})
    first = submit(NO_LOOK, python, "launch.teardown_s=1.0")
    record = RunDir(first.run_dir).job
    wait_for(lambda: first.is_over or record.exists())
    second = submit(NO_LOOK, python, run_dir=first.run_dir, name="second")
    assert second.end() == ("FAILED", 2), second.output
    assert f"is in use by job {first.job}" in second.output
    slurm.run("scancel", first.job)
    first.end(within_s=60)


def test_a_full_disk_at_the_start_is_told_in_a_line(submit, small_disk, tmp_path):
    if small_disk is None:
        pytest.skip("this machine does not let us mount a small disk")
    run_dir = small_disk / "early"
    run_dir.mkdir()
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free))
    try:
        # The file of settings is beside the folder they name, and not on the full disk.
        python = write_pretenders(tmp_path, {})
        submitted = submit(python, f"run_dir={run_dir}")
        assert submitted.end() == ("FAILED", 1), submitted.output
    finally:
        filler.unlink()
    assert f"run_dir ({run_dir}): " in submitted.output
    assert "No space left on device" in submitted.output
    assert "free space there" in submitted.output
    assert "Traceback" not in submitted.output


def test_programs_on_one_node_never_share_a_gpu(submit, slurm, tmp_path):
    if num_stand_ins(4) == 0:
        pytest.skip("no terminals that could stand in for GPUs")
    say, told = 'echo "GPUs: $CUDA_VISIBLE_DEVICES"', tmp_path / "told"
    told.touch()
    tell = f"{say}; echo >>{told}"
    all_told = f"until [ $(wc -l <{told}) = 3 ]; do sleep 0.1; done"
    python = write_pretenders(
        tmp_path,
        {"learn": f"{say}; {all_told}; sleep 1; exit 3", "serve": f"{tell}; {FOREVER}"}
        | {"rollout": tell},
    )
    submitted = submit(
        *(NO_LOOK, python, "launch.gpus_per_node=4", "launch.teardown_s=1.0"),
        *("learner.num_processes=2", "generators.num_servers=2", "model.dtype=bfloat16"),
        # Of the job alone: each rank would see one GPU, and not find the one of its number.
        options=("--gpus-per-node=4", "--gpu-bind=single:1"),
    )
    assert submitted.end() == ("FAILED", 12), submitted.output
    logs = RunDir(submitted.run_dir).attempt_logs(submitted.job, 0)

    def gpus_of(log: str) -> set[str]:
        found = re.search(r"^GPUs: (\S*)$", (logs / log).read_text(), flags=re.MULTILINE)
        return set(found[1].split(",")) if found and found[1] else set()

    learner = gpus_of("learn_0.log")
    servers = [gpus_of(f"serve_{index}.log") for index in range(2)]
    assert learner == gpus_of("learn_1.log")
    assert [len(learner), *map(len, servers)] == [2, 1, 1]
    assert learner | servers[0] | servers[1] == {"0", "1", "2", "3"}
    assert not gpus_of("rollout.log") & {"0", "1", "2", "3"}


@pytest.mark.slow
def test_a_servers_node_that_dies_takes_its_servers_and_not_the_run(submit, slurm, tmp_path):
    if not slurm.has_networks:
        pytest.skip("nodes without networks of their own cannot be cut off")
    submitted = submit(
        *(NO_LOOK, write_pretenders(tmp_path, {}), "launch.teardown_s=1.0"),
        *("generators.num_servers=2", "launch.placement.generator_nodes=2"),
        "launch.placement.rollout_node='first'",
        nodes=3,
    )
    wait_for(lambda: submitted.is_over or "starting servers" in submitted.output, within_s=60)
    time.sleep(5)
    slurm.cut_off("n3")
    try:
        wait_for(
            lambda: submitted.is_over or "going on without serve_1" in submitted.output,
            within_s=200,
        )
        assert not submitted.is_over, submitted.output
        assert any("megatron_rl learn" in line for line in submitted.survivors())
        slurm.run("scancel", submitted.job)
        submitted.end(within_s=90)
    finally:
        slurm.reconnect("n3")


@pytest.mark.slow
def test_a_preempted_learner_has_the_time_it_takes_to_save(submit, slurm, tmp_path):
    learn = f"[ ${{SLURM_RESTART_COUNT:-0}} = 1 ] && exit 3; {saves_when_told(25)}"
    python = write_pretenders(tmp_path, {"learn": learn, "rollout": "sleep 1000"})
    submitted = submit(NO_LOOK, python, "launch.teardown_s=2.0", options=("--nodelist=n1",))
    logs = RunDir(submitted.run_dir).attempt_logs(submitted.job, 0)
    log = logs / "learn_0.log"
    wait_for(
        lambda: submitted.is_over or (log.exists() and "listens" in log.read_text()), within_s=60
    )
    slurm.run(
        *("sbatch", "--partition=urgent", "--nodelist=n1", "--exclusive", "--output=/dev/null"),
        *("--time=5", "--wrap", "sleep 1"),
    )
    assert submitted.end(within_s=200) == ("FAILED", 12), submitted.output
    assert "saved" in log.read_text()
    assert (RunDir(submitted.run_dir).attempt_logs(submitted.job, 1) / "learn_0.log").exists()


def test_gpu_check_sums_over_the_nodes_of_its_job(slurm, tmp_path):
    out = tmp_path / "checked"
    script = REPOSITORY / "launchers/slurm/gpu_check.sbatch"
    command = ["sbatch", "--parsable", "--nodes=2", f"--output={tmp_path / 'job.log'}", str(script)]
    done = subprocess.run(
        [*command, "--rehearse", "--only", "nodes", "--out", str(out)],
        env=slurm.environment | {"MEGATRON_RL": f"{REPOSITORY}/.venv/bin/megatron-rl"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    end = slurm.wait_for_end(done.stdout.strip())
    assert end == ("COMPLETED", 0), (tmp_path / "job.log").read_text()
    (stage,) = json.loads((out / "results.json").read_text())["stages"]
    assert stage["status"] == "passed"
    assert {figure["name"]: figure["value"] for figure in stage["figures"]}["nodes"] == 2
    assert re.fullmatch(r"one task on each of \w+, \w+", stage["notes"][0])
