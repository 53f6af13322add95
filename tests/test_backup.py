"""`gateway backup`: whole while others write, restorable as its help says, never over anything, never half."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli_backup import backup as command
from gateway.datadir import DataDir, open_data_dir
from gateway.store import keys
from gateway.store.backup import BackupError, backup
from gateway.store.schema import connect, open_database
from gateway.store.verify import verify
from tests.books import fill, open_books, paid, settle
from tests.command import run


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    with contextlib.closing(open_books(tmp_path / "data")) as conn:
        fill(conn)
    return open_data_dir(tmp_path / "data")


def commands_of_the_help() -> list[str]:
    """The lines of the worked example, to the point where one serves again."""
    assert command.help is not None
    found: list[str] = re.findall(r"^ *\$ (.*)$", command.help, re.MULTILINE)
    assert found[0].startswith("gateway backup ")
    assert found[-1].startswith("gateway serve ")
    return found[:-1]


class Writer(threading.Thread):
    """Settles calls and makes keys until told to stop, as fast as it can."""

    def __init__(self, data: DataDir) -> None:
        super().__init__()
        self.data = data
        self.batches = 0
        self.secrets: list[str] = []
        self.more = threading.Condition()
        self.stopped = False

    def run(self) -> None:
        with contextlib.closing(connect(self.data.db_path)) as conn:
            while not self.stopped:
                settle(conn, [paid(self.batches * 4 + number, day=10) for number in range(4)])
                key = keys.create(conn, self.data.pepper, f"key {self.batches}")
                with self.more:
                    self.secrets.append(key.secret)
                    self.batches += 1
                    self.more.notify_all()

    def wait_for(self, batches: int) -> int:
        with self.more:
            goal = self.batches + batches
            assert self.more.wait_for(lambda: self.batches >= goal, 30)
            return self.batches


@pytest.fixture
def writer(data: DataDir) -> Iterator[Writer]:
    thread = Writer(data)
    thread.start()
    yield thread
    thread.stopped = True
    thread.join(30)
    assert not thread.is_alive()


def test_a_backup_taken_while_writing_is_restored_as_the_help_says(
    data: DataDir, writer: Writer, tmp_path: Path
) -> None:
    before = writer.wait_for(3)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "gateway"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m gateway "$@"\n')
    program.chmod(0o700)
    (tmp_path / "config.toml").write_text('[server]\ndata_dir = "data"\n')
    environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    script = "\n".join(("set -e", *commands_of_the_help()))
    done = subprocess.run(
        ["sh", "-c", script], check=False, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "monday.db and monday.db.pepper are written\nthe ledger adds up\n"
    writer.wait_for(1)  # it was not stopped

    restored = open_data_dir(tmp_path / "restored", create=False)
    with contextlib.closing(open_database(restored.db_path, restored.pepper)) as conn:
        assert verify(conn) == []
        index = keys.load_index(conn, restored.pepper)
        settle(conn, [paid(0, day=20)])  # and it can be served from
        assert verify(conn) == []
    known = [secret for secret in writer.secrets if index.find(secret.encode()) is not None]
    assert known == writer.secrets[: len(known)]
    assert len(known) >= before


def test_every_backup_under_load_is_of_one_moment(data: DataDir, writer: Writer, tmp_path: Path) -> None:
    counts = []
    for number in range(4):
        writer.wait_for(1)
        target = tmp_path / f"{number}.db"
        backup(data, target)
        with contextlib.closing(open_database(target, data.pepper)) as conn:
            assert verify(conn) == []
            counts.append(conn.execute("SELECT COUNT(*) FROM calls WHERE started_at > 1768000000").fetchone()[0])
    assert counts == sorted(set(counts))
    assert all(count % 4 == 0 for count in counts)


def test_its_files_are_two_and_nobody_elses(data: DataDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    before = os.umask(0)
    try:
        result = run("backup", str(tmp_path / "out" / "b.db"), "--data-dir", str(data.path), "--json")
    finally:
        os.umask(before)
    assert json.loads(result.stdout) == {
        "file": str(tmp_path / "out" / "b.db"),
        "pepper": str(tmp_path / "out" / "b.db.pepper"),
    }
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert found == {"b.db": 0o600, "b.db.pepper": 0o600}
    assert (tmp_path / "out" / "b.db.pepper").read_bytes() == data.pepper
    with contextlib.closing(sqlite3.connect(tmp_path / "out" / "b.db")) as conn:
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("delete",)


@pytest.mark.parametrize("taken", ["b.db", "b.db.pepper"])
def test_nothing_is_overwritten(data: DataDir, tmp_path: Path, taken: str) -> None:
    (tmp_path / taken).write_text("mine")
    result = run("backup", str(tmp_path / "b.db"), "--data-dir", str(data.path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{taken}: is there already, and a backup overwrites nothing; name another file" in result.stderr
    assert (tmp_path / taken).read_text() == "mine"
    assert sorted(path.name for path in tmp_path.glob("*b.db*")) == [taken]


def test_a_folder_that_is_not_there_is_named(data: DataDir, tmp_path: Path) -> None:
    result = run("backup", str(tmp_path / "none" / "b.db"), "--data-dir", str(data.path))
    assert result.exit_code == 1
    assert "none/b.db: cannot create it: No such file or directory" in result.stderr


def test_a_disk_without_room_leaves_nothing(data: DataDir, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    backup_command = [sys.executable, "-m", "gateway", "backup", str(tmp_path / "out" / "b.db")]
    limited = f"ulimit -f 64; exec {shlex.join(backup_command)} --data-dir {shlex.quote(str(data.path))}"
    done = subprocess.run(["sh", "-c", limited], check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.match(r"Error: .*gateway\.db: cannot be copied to .*out: ", done.stderr)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_database_is_no_backup(data: DataDir, tmp_path: Path) -> None:
    with contextlib.closing(connect(data.db_path)) as conn:
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = conn.execute("SELECT rootpage FROM sqlite_master WHERE name = 'entries_set'").fetchone()
    with data.db_path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\x00" * 4096)
    (tmp_path / "out").mkdir()
    with pytest.raises(BackupError, match=r"is damaged \(.*\); restore it from an older backup"):
        backup(data, tmp_path / "out" / "b.db")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_without_a_database_says_so(tmp_path: Path) -> None:
    open_data_dir(tmp_path / "data")
    result = run("backup", str(tmp_path / "b.db"), "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 1
    assert "gateway.db: unable to open database file" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_a_backup_before_an_upgrade_is_of_the_old_version(data: DataDir, tmp_path: Path) -> None:
    with contextlib.closing(connect(data.db_path)) as conn:
        conn.execute("UPDATE meta SET schema_version = 1")
    backup(data, tmp_path / "b.db")
    for path in (data.db_path, tmp_path / "b.db"):
        with contextlib.closing(connect(path)) as conn:
            assert conn.execute("SELECT schema_version FROM meta").fetchone() == (1,)
