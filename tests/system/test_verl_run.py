"""A whole run on a Parquet file of verl's shape, of which most rows are repeated."""

import json

import pytest
from run_records import batches_of, steps_of
from tiny_run import NUM_PROBLEMS, SERVE_PYTHON, run, write_config, write_inputs

from megatron_rl.run_dir import RunDir

pa = pytest.importorskip("pyarrow")

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SERVE_PYTHON.exists(), reason="no .venv-serve; run `make env`"),
]


def test_a_parquet_file_of_verl_trains_as_it_is(tmp_path):
    from pyarrow import parquet

    inputs = write_inputs(tmp_path / "inputs")
    lines = (inputs / "problems.jsonl").read_text().splitlines()
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": problem["problem"]}],
            "reward_model": {"style": "rule", "ground_truth": problem["answer"]},
            "extra_info": {"index": f"{problem['id']}-{copy}"},
        }
        for copy in range(10)
        for problem in map(json.loads, lines)
    ]
    path = inputs / "train.parquet"
    parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=100)
    run_dir = RunDir(tmp_path / "run")
    config = write_config(inputs, run_dir.root, sft=True)
    settings = [
        "num_steps=2",
        f'data.train="{path}"',
        f'data.evaluation="{path}"',
        'data.rows=":-4"',
        'data.evaluation_rows="-4:"',
        'data.columns.preset="verl"',
    ]
    overrides = [word for setting in settings for word in ("--set", setting)]
    exit_code, output = run("train", str(config), *overrides)
    assert exit_code == 0, output
    assert steps_of(run_dir) == [1, 2]
    assert all(batch.metrics["rollout/started_groups"] > 0 for batch in batches_of(run_dir))
    logged = (run_dir.root / "logs").glob("rollout*")
    told = "".join(log.read_text() for log in logged)
    repeated = 10 * NUM_PROBLEMS - 4 - NUM_PROBLEMS
    assert f"of 396 rows {repeated} repeated are dropped" in told
    records = [json.loads(line) for line in run_dir.evaluations.read_text().splitlines()]
    assert {record["problems"] for record in records} == {4}
