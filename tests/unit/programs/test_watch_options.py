import argparse
import socket
from pathlib import Path

import pytest

from megatron_rl.errors import ConfigError, DataError
from megatron_rl.programs.watch import main


def options(run_dir: Path, **changes: object) -> argparse.Namespace:
    given = {"run_dir": run_dir, "port": 0, "host": "127.0.0.1", "key_file": None, "stacks": False}
    return argparse.Namespace(**given | changes)


def test_other_machines_are_kept_out_unless_a_key_is_given(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--host 0\.0\.0\.0: other machines .* --key-file FILE"):
        main(None, options(tmp_path, host="0.0.0.0"))


@pytest.mark.parametrize("key", ["", "short", "sixteen letters and blanks", "a" * 20 + "&x=1"])
def test_a_key_that_cannot_be_part_of_an_address_is_refused(tmp_path: Path, key: str):
    path = tmp_path / "key"
    path.write_text(key)
    with pytest.raises(ConfigError, match="must hold 16 or more letters, digits, - and _") as error:
        main(None, options(tmp_path, key_file=path))
    assert not key or key not in str(error.value)


def test_a_key_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none cannot be read: .*No such file"):
        main(None, options(tmp_path, key_file=tmp_path / "none"))


def test_a_folder_that_cannot_appear_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="there is no such folder; name the run_dir of a run"):
        main(None, options(tmp_path / "runs" / "one"))


def test_a_port_in_use_is_named_with_the_remedy(tmp_path: Path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: .*; name another port, or 0"):
            main(None, options(tmp_path, port=port))
    with pytest.raises(ConfigError, match=r"--port 99999: .*name another port"):
        main(None, options(tmp_path, port=99999))


def test_stacks_of_a_run_without_processes_say_where_to_look(tmp_path: Path, capsys):
    assert main(None, options(tmp_path, stacks=True)) == 0
    assert "No process of this run is on" in capsys.readouterr().out
