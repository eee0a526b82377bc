"""Whether extensions were built for the installed torch, from imports that really run."""

import sys
from pathlib import Path

import pytest

from megatron_rl.programs.checks.torch_extensions import (
    Import,
    TorchExtensions,
    cudnn_version,
    extension_findings,
    import_extensions,
    imported,
)

PYTHON = Path(sys.executable)


def test_an_import_that_works_tells_cudnns_version():
    assert imported(PYTHON, "print('noise'); print('cudnn 92000')") == Import(
        error=None, cudnn=(9, 20, 0)
    )
    assert imported(PYTHON, "print('cudnn None')") == Import(error=None)  # torch for CPUs
    assert cudnn_version(91002) == (9, 10, 2)


def test_an_import_that_fails_gives_its_last_line():
    failed = imported(PYTHON, "import no_such_extension")
    assert failed.error == "ModuleNotFoundError: No module named 'no_such_extension'"
    assert imported(PYTHON, "raise SystemExit(3)").error == "exit code 3"
    assert "No such file" in (imported(Path("/no/python"), "").error or "")


def test_what_is_not_installed_is_not_imported():
    found = import_extensions(Path("/no/python"), has_engine=False, has_apex=False)
    assert found == TorchExtensions(engine=None, apex=None)
    assert list(extension_findings(found)) == []


@pytest.mark.parametrize(
    ("error", "value"),
    [
        ("ImportError: x.so: undefined symbol: _ZN3c10", "was built for another torch: "),
        ("OSError: libcudart.so.12: cannot open shared object file", "does not import: "),
    ],
)
def test_an_extension_that_does_not_fit_is_to_be_built_anew(error, value):
    broken = Import(error=error)
    engine, apex = extension_findings(TorchExtensions(engine=broken, apex=broken))
    assert engine.value == apex.value == value + error
    assert "wheels/transformer_engine*.whl and .venv/.stamp" in engine.remedy
    assert apex.remedy.endswith("run make env GPU=1 APEX=FOLDER")


def test_an_extension_that_fits_is_no_trouble():
    found = TorchExtensions(engine=Import(error=None, cudnn=(9, 20, 0)), apex=None)
    (engine,) = extension_findings(found)
    assert (engine.name, engine.remedy) == ("te build", "")
