"""The file of an ablation: what it may say, and what is refused before anything is resolved."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_rl.errors import ConfigError
from megatron_rl.programs.ablation.definition import overrides_of, read_definition, toml_value

HEAD = 'base = "run.toml"\nrun_dir = "runs/x"\nseeds = [1, 2]\n'


def read(folder: Path, text: str):
    path = folder / "ablation.toml"
    path.write_text(text)
    return read_definition(path)


def test_paths_start_at_the_file_and_at_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    found = read(tmp_path / "sub", HEAD + '[[variants]]\nname = "a"\n')
    assert found.base == tmp_path / "sub/run.toml"
    assert found.run_dir == tmp_path / "runs/x"
    assert found.seeds == (1, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('sedes = [1]\n[[variants]]\nname = "a"', "unknown key sedes; did you mean seeds?"),
        ('[[variants]]\nname = "a"\nst = {}', "unknown key variants.0.st; did you mean set?"),
        ("[[variants]]\nset = {}", "missing key variants.0.name"),
        ('[[variants]]\nname = "a/b"', "variants.0.name = 'a/b'"),
        ('[[variants]]\nname = "a"\n[[variants]]\nname = "a"', "variants.name ('a') must not be"),
        ('[[variants]]\nname = "start"', 'variants.name ("start") is a folder of the ablation'),
        ('[[variants]]\nname = "a"\nset = {seed = 3}', "seed (3) cannot be set: an ablation's"),
        ('[[variants]]\nname = "a"\nset = {run_dir = "x"}', "run_dir ('x') cannot be set"),
        ('base_overrides = {run_dir = "x"}\n[[variants]]\nname = "a"', "base_overrides: run_dir"),
        (
            '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\nstart_of = "c"',
            'variant "b": start_of ("c") must be a variant that is run: a',
        ),
        (
            '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\nstart_of = "a"\nset = {seed = 1}',
            'variant "b": start_of is not run, so set and begins_at mean nothing',
        ),
        ("variants = []", "variants = []: Tuple should have at least 1 item"),
        ('[[variants]]\nname = "a"\nstart_of = "a"', "so that nothing would run"),
    ],
)
def test_what_cannot_work_is_refused_with_its_key(tmp_path, text, message):
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, HEAD + text)
    assert f"{tmp_path}/ablation.toml: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [("[1, 1]", "seeds (1) must not be given 2 times"), ("[]", "seeds"), ('["a"]', "seeds.0")],
)
def test_seeds_are_whole_numbers_that_differ(tmp_path, seeds, message):
    text = HEAD.replace("[1, 2]", seeds) + '[[variants]]\nname = "a"\n'
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "cannot be read: No such file"), ("a = ", "not valid TOML")],
)
def test_a_file_that_is_none_is_named(tmp_path, text, message):
    path = tmp_path / "ablation.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_definition(path)


@pytest.mark.parametrize(
    "written",
    [
        'set = {algorithm.clip_high = 0.4, generators.sglang.max-running-requests = 8, sft="null"}',
        'set = {"algorithm.clip_high" = 0.4, "generators.sglang" = {max-running-requests = 8}, '
        'sft = "null"}',
    ],
)
def test_dotted_keys_and_tables_say_the_same(written):
    assert overrides_of(tomllib.loads(written)["set"]) == [
        "algorithm.clip_high=0.4",
        "generators.sglang.max-running-requests=8",
        "sft=null",
    ]


PLAIN = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("a.-\u00e9"), inner),
    max_leaves=8,
)


@settings(max_examples=40)
@given(PLAIN)
def test_a_value_is_written_as_toml_reads_it(value):
    assert tomllib.loads(f"value = {toml_value(value)}")["value"] == value
