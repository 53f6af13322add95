"""The database file: made once by whoever is first, bound to its pepper, holding no secret; and store trouble."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from gateway.datadir import DataDirError
from gateway.store import keys
from gateway.store.schema import OPERATOR, connect, immediate, open_database
from gateway.store.trouble import BACKOFF_MAX_S, LOCKED_S_MAX, Trouble, needs_new_connection

PEPPER = bytes(range(32))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gateway.db"


def test_a_new_file_has_its_version_its_account_and_its_modes(path: Path) -> None:
    with contextlib.closing(open_database(path, PEPPER)) as conn:
        assert conn.execute("SELECT schema_version, keys_version FROM meta").fetchall() == [(3, 0)]
        assert conn.execute("SELECT id FROM accounts").fetchall() == [(OPERATOR,)]
        assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert conn.execute("PRAGMA synchronous").fetchone() == (1,)
        assert conn.execute("PRAGMA foreign_keys").fetchone() == (1,)
        assert conn.execute("PRAGMA busy_timeout").fetchone() == (5000,)
        assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


def test_racing_openers_make_one_schema(path: Path) -> None:
    start = threading.Barrier(6)
    failures: list[BaseException] = []

    def opener(number: int) -> None:
        start.wait(10)
        try:
            with contextlib.closing(open_database(path, PEPPER)) as conn:
                keys.create(conn, PEPPER, f"key {number}")
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=opener, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert failures == []
    with contextlib.closing(connect(path)) as conn:
        assert conn.execute("SELECT schema_version, keys_version FROM meta").fetchall() == [(3, 6)]
        assert len(keys.list_all(conn)) == 6


def test_a_newer_schema_is_refused(path: Path) -> None:
    open_database(path, PEPPER).close()
    with contextlib.closing(connect(path)) as conn:
        conn.execute("UPDATE meta SET schema_version = 99")
    with pytest.raises(DataDirError, match="schema version 99 and this gateway knows 3"):
        open_database(path, PEPPER)


def test_another_pepper_is_refused(path: Path) -> None:
    open_database(path, PEPPER).close()
    with pytest.raises(DataDirError, match="is not the pepper that the keys"):
        open_database(path, bytes(32))


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(DataDirError, match="file is not a database; restore it"):
        open_database(path, PEPPER)


def _change_then_fail(conn: sqlite3.Connection) -> None:
    with immediate(conn):
        conn.execute("UPDATE meta SET keys_version = 5")
        conn.execute("INSERT INTO meta (id, schema_version, keys_version) VALUES (1, 1, 1)")


def test_a_transaction_that_fails_leaves_nothing(path: Path) -> None:
    with contextlib.closing(open_database(path, PEPPER)) as conn:
        with pytest.raises(sqlite3.IntegrityError):
            _change_then_fail(conn)
        assert not conn.in_transaction
        assert keys.version(conn) == 0


def test_no_file_holds_a_secret(path: Path) -> None:
    with contextlib.closing(open_database(path, PEPPER)) as conn:
        made = [keys.create(conn, PEPPER, f"key {number}") for number in range(50)]
        on_disk = b"".join(each.read_bytes() for each in path.parent.iterdir())  # the WAL among them
    on_disk += path.read_bytes()
    for key in made:
        body = key.secret.removeprefix(keys.PREFIX).encode()
        assert len(body) == 43
        assert on_disk.count(key.id.encode()) > 0
        assert not any(body[at : at + 8] in on_disk for at in range(len(body) - 7))
        assert key.secret not in repr(key)
    assert PEPPER not in on_disk


def test_keys_are_made_listed_revoked_and_indexed(path: Path) -> None:
    with contextlib.closing(open_database(path, PEPPER)) as conn:
        one, two = keys.create(conn, PEPPER, "one"), keys.create(conn, PEPPER, "two")
        assert keys.version(conn) == 2
        assert keys.revoke(conn, one.id)
        assert not keys.revoke(conn, one.id)
        assert keys.version(conn) == 3
        first, second = keys.list_all(conn)
        assert (first.id, first.name, second.id, second.revoked_at) == (one.id, "one", two.id, None)
        assert first.revoked_at is not None
        assert second.prefix_hint == f"{two.secret[:10]}...{two.secret[-4:]}"
        index = keys.load_index(conn, PEPPER)
        assert index.find(one.secret.encode()) is None
        assert index.find(two.secret.encode()) is not None
        with pytest.raises(KeyError):
            keys.revoke(conn, "key_none")
        with pytest.raises(ValueError, match="there is no account 'nobody'"):
            keys.create(conn, PEPPER, "three", account_id="nobody")
        assert keys.version(conn) == 3


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[2Jb", "x" * 101])
def test_a_name_that_would_spoil_a_list_is_refused(path: Path, name: str) -> None:
    with contextlib.closing(open_database(path, PEPPER)) as conn, pytest.raises(ValueError, match="printable"):
        keys.create(conn, PEPPER, name)


def _error(code: int) -> sqlite3.OperationalError:
    exc = sqlite3.OperationalError("x")
    exc.sqlite_errorcode = code
    return exc


def test_a_lock_counts_once_it_has_lasted() -> None:
    trouble, locked = Trouble(), _error(sqlite3.SQLITE_BUSY_SNAPSHOT)
    assert not needs_new_connection(locked)
    assert [trouble.note(locked, now) for now in (10.0, 12.0, 10.0 + LOCKED_S_MAX - 0.001)] == [0.1] * 3
    assert not trouble.failing
    trouble.note(locked, 10.0 + LOCKED_S_MAX)
    assert trouble.failing
    trouble.clear()
    trouble.note(locked, 100.0)
    assert not trouble.failing


def test_a_full_disk_counts_at_once_and_is_tried_ever_less_often() -> None:
    trouble, full = Trouble(), _error(sqlite3.SQLITE_FULL)
    assert not needs_new_connection(full)
    assert needs_new_connection(_error(sqlite3.SQLITE_IOERR_READ))
    assert [trouble.note(full, 0.0) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, BACKOFF_MAX_S, BACKOFF_MAX_S]
    assert trouble.failing
    trouble.clear()
    assert trouble.note(full, 0.0) == 0.1
