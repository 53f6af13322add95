"""The data folder: what it makes, what it refuses, and who may hold it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.datadir import DataDirBusy, DataDirError, open_data_dir

HOLD = """
import sys
from pathlib import Path
from gateway.datadir import open_data_dir
with open_data_dir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""
SHOW = "import sys; from pathlib import Path; from gateway.datadir import open_data_dir as o; "
SHOW += "sys.stdin.read(); print(o(Path(sys.argv[1])).pepper.hex())"


def _python(code: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_folder_is_private_and_its_pepper_stays(tmp_path: Path) -> None:
    data = open_data_dir(tmp_path / "new" / "data")
    assert _mode(data.path) == 0o700
    assert _mode(data.path / "pepper") == 0o600
    assert len(data.pepper) == 32
    assert sorted(os.listdir(data.path)) == ["pepper"]
    assert open_data_dir(data.path).pepper == data.pepper
    assert data.pepper.hex() not in repr(data)
    assert repr(data.pepper) not in repr(data)


def test_a_restored_pepper_is_made_private_again(tmp_path: Path) -> None:
    data = open_data_dir(tmp_path / "data")
    (data.path / "pepper").chmod(0o644)
    open_data_dir(data.path)
    assert _mode(data.path / "pepper") == 0o600


def test_racing_processes_agree_on_one_pepper(tmp_path: Path) -> None:
    racers = [_python(SHOW, tmp_path / "data") for _ in range(6)]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.close()  # they start together, when all have loaded
        racer.stdin = None
    peppers = {racer.communicate(timeout=30)[0].strip() for racer in racers}
    assert peppers == {open_data_dir(tmp_path / "data").pepper.hex()}
    assert sorted(os.listdir(tmp_path / "data")) == ["pepper"]


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_damaged_pepper_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "pepper").write_bytes(b"x" * size)
    with pytest.raises(DataDirError, match=f"pepper: holds {size} bytes, not 32; restore it"):
        open_data_dir(tmp_path)


def test_a_file_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(DataDirError, match="data: is a file"):
        open_data_dir(tmp_path / "data")
    with pytest.raises(DataDirError, match="cannot create it: Not a directory"):
        open_data_dir(tmp_path / "data" / "below")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root, who runs tests in containers, may write anywhere
    with pytest.raises(DataDirError, match="cannot write to the data folder"):
        open_data_dir(tmp_path)


def test_reading_commands_make_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DataDirError, match="there is no data folder here"):
        open_data_dir(tmp_path / "typo", create=False)
    assert not (tmp_path / "typo").exists()


def test_one_process_holds_the_folder_until_it_dies(tmp_path: Path) -> None:
    data = open_data_dir(tmp_path)
    with _python(HOLD, tmp_path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirBusy, match=rf"another gateway serves .* \(process {holder.pid}\)"), data.locked():
            pass
        holder.kill()
    with data.locked():
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
