"""A disk that is full: calls are 503 once their charges cannot be kept, never 200 unbilled; it passes without a restart.

RLIMIT_FSIZE is what fills the disk, for the gateway alone: a write past that offset of any file fails. So it decides
by its size which files are full. SQLite's WAL and new journal segments grow past small limits soon; segments that are
allocated take lines up to the limit; the log on standard error is a file like the others.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio

from tests.crash.caller import Told, call
from tests.crash.site import SOON_S, Site, holds_true, open_site
from tests.crash.upstream import Script

SEGMENT_BYTES = 65_536
LEDGER = f"journal_segment_bytes = {SEGMENT_BYTES}"
CALLERS = 4


async def _calls(site: Site, secret: str, first: int, count: int, **fields: object) -> list[Told]:
    """So many calls, one after the other on each of some connections; alternating kinds."""
    told: list[Told] = []

    async def caller(numbers: range) -> None:
        async with await site.connect() as stream:
            for number in numbers:
                script = Script(number, stream=number % 2 == 1, frames=3, completion=number % 7)
                told.append(await call(stream, secret, script, **fields))

    with trio.fail_after(6 * SOON_S):
        async with trio.open_nursery() as nursery:
            for at in range(CALLERS):
                nursery.start_soon(caller, range(first + at, first + count, CALLERS))
    return told


async def _works_again(site: Site, secret: str, number: int) -> Told:
    """Call until it is 200; without a restart, soon."""
    with trio.fail_after(SOON_S):
        while True:
            one = (await _calls(site, secret, number, 1))[0]
            if one.status == 200:
                return one
            assert one.status == 503
            await trio.sleep(0.05)


def _check_charged(site: Site, told: list[Told]) -> None:
    """Whatever was answered whole is charged its price; a refusal is charged nothing."""
    charges = site.charges()
    for one in told:
        if one.price is not None:
            assert charges.get(one.gen_id, 0) == one.price, one
    site.check_books()


async def test_a_database_that_cannot_grow(tmp_path: Path) -> None:
    """The journal has room for segments, which keep all charges: service goes on. A crash then loses nothing."""
    segment_bytes = 4 * SEGMENT_BYTES  # a rotation may take as long as a poll of the keys
    async with open_site(tmp_path, ledger=f"journal_segment_bytes = {segment_bytes}") as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.file_size_limit(segment_bytes):
            told = await _calls(site, key.secret, 1, 1200)
            assert {one.status for one in told} == {200}
            assert (await site.levels())["gateway_records_queued"] > 0
            assert len(site.segments()) > 2
            await site.kill()
        await site.start()
        _check_charged(site, told)
        assert len(site.segments()) <= 2


async def test_no_room_for_another_segment(tmp_path: Path) -> None:
    """The two segments that were allocated fill up; then calls are refused before their provider is called."""
    async with open_site(tmp_path, ledger=LEDGER) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.file_size_limit(SEGMENT_BYTES - 1):
            told = await _calls(site, key.secret, 1, 600)
            seen = len(site.upstream.seen)
            assert {one.status for one in told} == {200, 503}
            ended = await _calls(site, key.secret, 1001, 20)
            assert {one.status for one in ended} == {503}
            assert len(site.upstream.seen) == seen
            assert sum(one.status == 200 for one in told) > SEGMENT_BYTES // 4096
            assert (await site.levels())["gateway_credit_held_usd"] == 0
        told.append(await _works_again(site, key.secret, 2001))
        await site.at_rest()
        _check_charged(site, told)
        told += await _calls(site, key.secret, 3001, 200)
        assert {one.status for one in told[-200:]} == {200}
        await site.at_rest()
        _check_charged(site, told)
        await holds_true(lambda: len(site.segments()) <= 3)  # deleted after the commit that needs them last


async def test_a_crash_while_there_is_no_room(tmp_path: Path) -> None:
    async with open_site(tmp_path, ledger=LEDGER) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.file_size_limit(SEGMENT_BYTES - 1):
            told = await _calls(site, key.secret, 1, 600)
            assert {one.status for one in told} == {200, 503}
            await site.kill()
        await site.start()
        _check_charged(site, told)
        assert (await _works_again(site, key.secret, 2001)).status == 200


@pytest.mark.parametrize("log", ["/dev/null", "file"])
async def test_files_that_cannot_be_written_cost_no_call_that_has_room(tmp_path: Path, log: str) -> None:
    """What a call needs at its end was allocated before it began: it is served, charged, and survives a kill.

    With the log in a file, that takes nothing either.
    """
    async with open_site(tmp_path, ledger=LEDGER) as site:
        key = site.key(site.account("acme", usd=1))
        if log != "file":
            (tmp_path / "gateway.stderr").symlink_to(log)
        await site.start()
        with site.file_size_limit(1):
            told = await _calls(site, key.secret, 101, 10)
            async with await site.connect() as stream:
                streamed = await call(stream, key.secret, Script(200, stream=True, frames=8, gap_s=0.005))
            told.append(streamed)
            assert {one.status for one in told} == {200}
            levels = await site.levels()
            assert levels["gateway_credit_held_usd"] == 0
            assert levels["gateway_calls_in_flight"] == 0
            await site.kill()
        await site.start()
        _check_charged(site, told)
        assert {one.gen_id for one in told} <= {record["gen_id"] for record in site.records()}


async def test_a_log_that_takes_nothing_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    """Standard error on a full disk, with lines of calls, of the process and of trouble to be written."""
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        (tmp_path / "gateway.stderr").symlink_to("/dev/full")
        await site.start()
        told = await _calls(site, key.secret, 1, 20)
        site.process.process.send_signal(signal.SIGHUP)  # answered with a line in the log
        told += await _calls(site, key.secret, 101, 20)
        assert {one.status for one in told} == {200}
        await site.at_rest()
        _check_charged(site, told)
        await site.stop()
