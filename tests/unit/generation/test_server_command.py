"""The command line of a server: what we set, what the user may set, what stays secret."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError
from megatron_rl.generation.server_command import (
    PLUGIN,
    STANDINS,
    Span,
    check_dtype,
    secret_text,
    server_argv,
    server_environment,
)
from megatron_rl.generation.server_flags import (
    SUPPORT_FLAG,
    Flag,
    check_sampling_fields,
    known_flags,
    known_sampling_fields,
    render_flags,
    support_flags,
    validate_flags,
)

KNOWN = (
    Flag(options=("--model-path", "--model"), dest="model_path", is_bare=False, choices=()),
    Flag(options=("--port",), dest="port", is_bare=False, choices=()),
    Flag(options=("--host",), dest="host", is_bare=False, choices=()),
    Flag(options=("--api-key",), dest="api_key", is_bare=False, choices=()),
    Flag(
        options=("--tp-size", "--tensor-parallel-size"), dest="tp_size", is_bare=False, choices=()
    ),
    Flag(options=("--nnodes",), dest="nnodes", is_bare=False, choices=()),
    Flag(options=("--node-rank",), dest="node_rank", is_bare=False, choices=()),
    Flag(options=("--dist-init-addr",), dest="dist_init_addr", is_bare=False, choices=()),
    Flag(options=("--weight-version",), dest="weight_version", is_bare=False, choices=()),
    Flag(
        options=("--disable-overlap-schedule",),
        dest="disable_overlap_schedule",
        is_bare=True,
        choices=(),
    ),
    Flag(
        options=("--max-running-requests",), dest="max_running_requests", is_bare=False, choices=()
    ),
    Flag(options=("--sleep-on-idle",), dest="sleep_on_idle", is_bare=True, choices=()),
    Flag(
        options=("--schedule-policy",),
        dest="schedule_policy",
        is_bare=False,
        choices=("lpm", "random", "fcfs"),
    ),
    Flag(options=("--dllm-fdfo", "--no-dllm-fdfo"), dest="dllm_fdfo", is_bare=True, choices=()),
    Flag(options=("--gc-threshold",), dest="gc_threshold", is_bare=False, choices=()),
)


def argv(**changes) -> tuple[str, ...]:
    values = {
        "python": Path("/serve/bin/python"),
        "device": "cpu",
        "model_path": Path("/models/tiny"),
        "has_weights": True,
        "takes_shards": False,
        "dtype": "float32",
        "config_overrides": {},
        "tp": 1,
        "host": "127.0.0.1",
        "port": 4000,
        "context_length": None,
        "secret_file": Path("/run/servers/.server_0.yaml"),
        "version": 0,
        "flags": {},
    }
    return server_argv(**{**values, **changes})


def value_of(arguments: tuple[str, ...], option: str) -> str:
    return arguments[arguments.index(option) + 1]


def test_the_stock_server_is_started_by_its_own_interpreter():
    assert argv()[:3] == ("/serve/bin/python", "-m", "sglang.launch_server")
    assert value_of(argv(), "--model-path") == "/models/tiny"
    assert value_of(argv(), "--weight-version") == "0"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_overlap_is_off_everywhere_because_it_blurs_the_version_boundary(device):
    assert "--disable-overlap-schedule" in argv(device=device)


def test_a_gpu_server_gets_no_cpu_flags():
    assert "torch_native" not in argv(device="cuda")
    assert "--max-total-tokens" not in argv(device="cuda")
    assert value_of(argv(), "--attention-backend") == "torch_native"


def test_a_gpu_server_of_float32_weights_is_refused_with_what_to_set_instead():
    with pytest.raises(ConfigError, match=r'model.dtype \("float32"\) must be .* on a GPU.*; set'):
        check_dtype("float32", device="cuda")
    for dtype, device in [("float32", "cpu"), ("bfloat16", "cuda"), ("float16", "cuda")]:
        check_dtype(dtype, device=device)


def test_the_key_is_in_a_file_and_not_on_the_command_line():
    assert value_of(argv(), "--config") == "/run/servers/.server_0.yaml"
    assert "--api-key" not in argv()
    assert json.loads(secret_text("abc")) == {"api-key": "abc"}


def test_a_model_without_weights_is_served_with_arbitrary_ones():
    assert "--load-format" not in argv()
    assert value_of(argv(has_weights=False), "--load-format") == "dummy"


OURS = {"quantization_config": {"quant_method": "fp8"}, "max_position_embeddings": 512}


def test_fields_of_config_json_that_a_run_changes_are_handed_over():
    assert "--json-model-override-args" not in argv()
    found = value_of(argv(config_overrides=OURS), "--json-model-override-args")
    assert json.loads(found) == OURS


@pytest.mark.parametrize("users", [{"a": 1}, '{"a": 1}'])
def test_the_users_overrides_of_config_json_go_with_those_of_the_run(users):
    flags = {"json_model_override_args": users}
    both = value_of(argv(config_overrides=OURS, flags=flags), "--json-model-override-args")
    assert json.loads(both) == OURS | {"a": 1}
    alone = value_of(argv(flags=flags), "--json-model-override-args")
    assert json.loads(alone) == {"a": 1}


@pytest.mark.parametrize("users", ["{", "[1]"])
def test_overrides_of_config_json_that_are_no_table_are_refused(users):
    with pytest.raises(ConfigError, match=r"generators\.sglang\.json_model_override_args"):
        argv(config_overrides=OURS, flags={"json_model_override_args": users})


def test_the_context_length_is_the_models_own_unless_given():
    assert "--context-length" not in argv()
    assert value_of(argv(context_length=512), "--context-length") == "512"


def test_a_server_of_one_node_says_nothing_of_nodes():
    assert not {"--nnodes", "--node-rank", "--dist-init-addr"} & set(argv(tp=8))


def test_every_node_of_a_server_knows_its_rank_and_where_the_first_one_is():
    span = Span(num_nodes=2, node_rank=1, rendezvous="n3:4001")
    arguments = argv(tp=8, span=span)
    assert value_of(arguments, "--tp-size") == "8"
    assert value_of(arguments, "--nnodes") == "2"
    assert value_of(arguments, "--node-rank") == "1"
    assert value_of(arguments, "--dist-init-addr") == "n3:4001"


def test_a_users_flag_replaces_ours():
    arguments = argv(flags={"max_running_requests": 7, "sleep_on_idle": False})
    assert arguments.count("--max-running-requests") == 1
    assert value_of(arguments, "--max-running-requests") == "7"
    assert "--sleep-on-idle" not in arguments


def test_flags_are_rendered_by_type():
    flags = {"sleep_on_idle": True, "dllm_fdfo": False, "gc_threshold": [1, 2], "x_y": {"a": 1}}
    assert render_flags(flags, KNOWN) == [
        "--sleep-on-idle",
        "--no-dllm-fdfo",
        *("--gc-threshold", "1", "2"),
        *("--x-y", '{"a": 1}'),
    ]


def test_dashes_underscores_and_aliases_mean_the_same_flag():
    for key in ("max-running-requests", "max_running_requests"):
        assert validate_flags({key: 3}, KNOWN) == {"max_running_requests": 3}


def test_an_unknown_flag_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"max_runing.*did you mean .*max_running_requests\?"):
        validate_flags({"max_runing_requests": 3}, KNOWN)


REPLICAS = (
    Flag(options=("--dp-size", "--dp"), dest="dp_size", is_bare=False, choices=()),
    Flag(options=("--enable-dp-attention",), dest="enable_dp_attention", is_bare=True, choices=()),
    Flag(options=("--pp-size",), dest="pp_size", is_bare=False, choices=()),
)


def test_replicas_in_one_server_are_those_of_attention():
    flags = {"dp-size": 2, "enable-dp-attention": True}
    assert validate_flags(flags, REPLICAS) == {"dp_size": 2, "enable_dp_attention": True}
    for others in ({}, {"enable-dp-attention": False}):
        with pytest.raises(ConfigError, match=r"dp_size .*enable_dp_attention.*num_servers"):
            validate_flags({"dp": 2, **others}, REPLICAS)


def test_stages_of_a_server_are_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"pp-size cannot .*never meet; .*generators\.tp"):
        validate_flags({"pp-size": 2}, REPLICAS)


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("model-path", "model.path"),
        ("model", "model.path"),
        ("host", "generators.host"),
        ("port", "generators.port"),
        ("tp_size", "generators.tp"),
        ("tensor-parallel-size", "generators.tp"),
        ("api_key", "key of its own"),
        ("weight_version", "policy versions"),
        ("nnodes", "generators.nodes_per_server"),
        ("node-rank", "generators.nodes_per_server"),
        ("dist-init-addr", "launcher"),
    ],
)
def test_a_flag_that_has_a_key_of_its_own_is_refused_and_the_key_named(flag, remedy):
    with pytest.raises(ConfigError, match=remedy):
        validate_flags({flag: "x"}, KNOWN)


def test_overlap_cannot_be_switched_on():
    assert validate_flags({"disable_overlap_schedule": True}, KNOWN)
    with pytest.raises(ConfigError, match="one too early"):
        validate_flags({"disable-overlap-schedule": False}, KNOWN)


def test_a_server_has_room_for_what_tokens_are_chosen_from_and_for_ties():
    flag = Flag(
        options=("--sampling-mask-max-tokens",), dest=SUPPORT_FLAG, is_bare=False, choices=()
    )
    assert support_flags(512, [*KNOWN, flag]) == {SUPPORT_FLAG: 1024}
    with pytest.raises(ConfigError, match=r"follows generators\.sampling\.top_k"):
        validate_flags({"sampling-mask-max-tokens": 64}, [*KNOWN, flag])


def test_an_sglang_that_does_not_say_what_it_chose_from_is_refused():
    with pytest.raises(ConfigError, match="need an sglang that reports what each token was chosen"):
        support_flags(512, KNOWN)


def test_an_unknown_sampling_parameter_is_refused_with_the_nearest_one():
    check_sampling_fields("evaluation.sampling", {"stop": ["x"]}, ["stop", "top_k"])
    with pytest.raises(ConfigError, match=r"evaluation.sampling.topk: .*did you mean top_k\?"):
        check_sampling_fields("evaluation.sampling", {"topk": 5}, ["stop", "top_k"])


def test_sampling_parameters_are_asked_of_the_installed_sglang_once(tmp_path):
    fields = '["top_k", "stop", "stop_strs", "is_normalized"]'
    python = fake_interpreter(tmp_path, f"print({fields!r})")
    for _ in range(2):
        assert known_sampling_fields(python, {}, tmp_path / "cache") == ["top_k", "stop"]
    assert (tmp_path / "asked").read_text() == "x"


@pytest.mark.parametrize(
    ("flag", "value", "rule"),
    [
        ("sleep_on_idle", "yes", "true or false"),
        ("max_running_requests", True, "needs a value"),
        ("schedule_policy", "fcsf", "did you mean 'fcfs'"),
    ],
)
def test_a_value_the_flag_cannot_take_is_refused(flag, value, rule):
    with pytest.raises(ConfigError, match=rule):
        validate_flags({flag: value}, KNOWN)


def test_a_cpu_server_imports_the_stand_ins_first_and_keeps_the_users_path():
    variables = server_environment(
        device="cpu", tp=1, cpu_threads=2, cores=[0, 1], pythonpath="/mine"
    )
    assert variables["PYTHONPATH"] == f"{STANDINS}:{PLUGIN}:/mine"
    assert variables["OMP_NUM_THREADS"] == "2"
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in variables
    assert (STANDINS / "sitecustomize.py").exists()


def test_a_gpu_server_never_sees_the_stand_ins():
    variables = server_environment(device="cuda", tp=2, cpu_threads=2, cores=[0], pythonpath="/m")
    assert variables["PYTHONPATH"] == f"{PLUGIN}:/m"
    assert "SGLANG_USE_CPU_ENGINE" not in variables


def test_a_server_that_takes_shards_loads_the_plugin_that_its_path_has():
    without, with_them = argv(), argv(takes_shards=True)
    assert "--custom-weight-loader" not in without
    module, function = value_of(with_them, "--custom-weight-loader").split(".")
    assert f"import {function}" in (PLUGIN / module / "__init__.py").read_text()


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        ([4, 5, 6, 7], "4,5|6,7"),  # 2 ranks x 2 threads: a core for each
        ([4, 5], "4,5|4,5"),  # 2 cores: shared
        ([4], "4|4"),
    ],
)
def test_tensor_parallel_ranks_get_cores_of_their_own_as_far_as_they_reach(cores, expected):
    variables = server_environment(device="cpu", tp=2, cpu_threads=2, cores=cores, pythonpath="")
    assert variables["SGLANG_CPU_OMP_THREADS_BIND"] == expected


def test_a_node_of_a_server_has_cores_for_its_own_ranks():
    """Each process group of a server counts the ranks of its node from 0."""
    cpu = {"device": "cpu", "cpu_threads": 2, "cores": [0, 1, 2, 3], "pythonpath": ""}
    variables = server_environment(tp=4, num_nodes=2, **cpu)
    assert variables["SGLANG_CPU_OMP_THREADS_BIND"] == "0,1|2,3"
    variables = server_environment(tp=2, num_nodes=2, **cpu)
    assert variables["SGLANG_CPU_OMP_THREADS_BIND"] == "0,1"


def fake_interpreter(folder: Path, body: str) -> Path:
    """A program in the place of the serving interpreter, which counts how often it is asked."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(
        f"#!{sys.executable}\nopen({str(folder / 'asked')!r}, 'a').write('x')\n{body}"
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def test_the_interpreter_is_asked_once_and_again_after_a_package_changed(tmp_path):
    item = {"options": ["--port"], "dest": "port", "is_bare": False, "choices": []}
    python = fake_interpreter(tmp_path, f"print('a banner')\nprint({json.dumps([item])!r})")
    packages = tmp_path / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    for _ in range(2):
        flags = known_flags(python, os.environ, tmp_path / "cache")
        assert [flag.dest for flag in flags] == ["port"]
    assert (tmp_path / "asked").read_text() == "x"
    os.utime(packages, (1, 1))
    known_flags(python, os.environ, tmp_path / "cache")
    assert (tmp_path / "asked").read_text() == "xx"


def test_an_interpreter_without_sglang_is_named(tmp_path):
    python = fake_interpreter(tmp_path, "raise ModuleNotFoundError('No module named sglang')")
    with pytest.raises(ConfigError, match=r"generators\.python.*cannot import sglang"):
        known_flags(python, os.environ, tmp_path)


def test_a_missing_interpreter_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"generators\.python.*cannot be run"):
        known_flags(tmp_path / "nowhere", os.environ, tmp_path)
