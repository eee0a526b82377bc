"""What doctor says of the compiler that a learner's kernels need, from folders made for it."""

import pytest

from megatron_rl.programs.checks.kernel_compiler import find_kernel_compiler, python_headers


@pytest.fixture
def headers(tmp_path):
    folder = tmp_path / "include"
    folder.mkdir()
    (folder / "Python.h").touch()
    return folder


@pytest.fixture
def programs(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("gcc", "my-cc"):
        (folder / name).touch(mode=0o755)
    return folder


def test_a_machine_with_gcc_and_pythons_headers_is_well(programs, headers):
    found = find_kernel_compiler({"PATH": str(programs)}, headers=headers)
    assert not found.remedy
    assert found.value == f"{programs / 'gcc'}, {headers / 'Python.h'}"
    mine = find_kernel_compiler({"PATH": str(programs), "CC": "my-cc"}, headers=headers)
    assert mine.value.startswith(str(programs / "my-cc"))


def test_what_is_missing_is_named_with_its_remedy(programs, headers, tmp_path):
    gone = find_kernel_compiler({"PATH": str(tmp_path)}, headers=headers)
    assert gone.value == "no C compiler (gcc or clang)"
    assert "install gcc" in gone.remedy
    named = find_kernel_compiler({"PATH": str(programs), "CC": "icc"}, headers=headers)
    assert named.value == "no C compiler (icc)"
    bare = find_kernel_compiler({"PATH": str(programs)}, headers=tmp_path)
    assert bare.value == f"no {tmp_path / 'Python.h'}"
    assert "python3-dev" in bare.remedy


def test_headers_are_those_of_this_interpreter():
    assert python_headers().name.startswith("python3")
