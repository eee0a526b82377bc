"""Headers that Transformer Engine compiles with: a toolkit's, or those of NVIDIA's packages."""

from megatron_rl.learner.device import engine_headers
from megatron_rl.learner.device.engine_headers import packaged_headers, show_engine_the_headers


def with_header(folder):
    folder.mkdir(parents=True)
    (folder / "cuda_runtime.h").touch()
    return folder


def shown(environment, monkeypatch, *, toolkit, packaged):
    monkeypatch.setattr(engine_headers, "packaged_headers", lambda: packaged)
    show_engine_the_headers(environment, toolkit=toolkit)
    return environment


def test_a_toolkit_is_left_alone(tmp_path, monkeypatch):
    packaged, nowhere = tmp_path / "packaged", tmp_path / "nowhere"
    home, headers = tmp_path / "cuda", with_header(tmp_path / "cuda/include")
    assert shown({}, monkeypatch, toolkit=home, packaged=packaged) == {}
    for stated in ({"CUDA_HOME": str(home)}, {"NVTE_CUDA_INCLUDE_DIR": str(headers)}):
        before = dict(stated)
        assert shown(stated, monkeypatch, toolkit=nowhere, packaged=packaged) == before


def test_without_one_the_packages_headers_are_named(tmp_path, monkeypatch):
    packaged, nowhere = tmp_path / "packaged", tmp_path / "nowhere"
    expected = {"NVTE_CUDA_INCLUDE_DIR": str(packaged)}
    assert shown({}, monkeypatch, toolkit=nowhere, packaged=packaged) == expected
    # A variable that names a folder without headers does not help Transformer Engine either.
    empty = {"CUDA_HOME": str(nowhere)}
    assert shown(dict(empty), monkeypatch, toolkit=nowhere, packaged=packaged) == empty | expected
    assert shown({}, monkeypatch, toolkit=nowhere, packaged=None) == {}


def test_the_packages_headers_are_found_where_pip_puts_them(tmp_path, monkeypatch):
    headers = with_header(tmp_path / "nvidia/cu13/include")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(engine_headers.importlib.util.sys.modules, "nvidia", raising=False)
    assert packaged_headers() == headers
