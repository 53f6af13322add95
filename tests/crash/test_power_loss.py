"""`durability = "power_loss"`: besides its journal line, an answer's last byte waits for the commit of its charge.

A disk that does not commit delays the answer and does not take it away: what the journal has is charged, once, whether
the client waited, was killed off with the gateway, or got his answer late.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from tests.crash.caller import Told, call_once, question
from tests.crash.site import SOON_S, Site, holds_true, open_site, price_of
from tests.crash.upstream import Script
from tests.wire_h1 import encode

POWER_LOSS = 'durability = "power_loss"'
TOTAL_S = 2.0
TO_SEND_S = 1.0  # of that, kept for the last bytes

WHOLE = Script(1)
BROKEN = Script(1, stream=True, frames=9, gap_s=0.002, cut_after=6)


async def _until_it_waits(site: Site) -> None:
    """Wait until a record is on its way to the database: its call waits for the commit."""
    with trio.fail_after(SOON_S):
        while True:
            if (await site.levels())["gateway_records_queued"]:
                return
            await trio.sleep(0.01)


@pytest.mark.parametrize("script", [WHOLE, BROKEN], ids=["whole", "broken"])
async def test_the_last_byte_waits_for_the_commit(tmp_path: Path, script: Script) -> None:
    """When the client has it, the charge is in the database."""
    answers: list[Told] = []
    async with open_site(tmp_path, ledger=POWER_LOSS) as site, trio.open_nursery() as nursery:
        key = site.key(site.account("acme", usd=1))
        await site.start()

        async def one() -> None:
            answers.append(await call_once(site, key.secret, script))

        with site.locked() as lock:
            nursery.start_soon(one)
            await _until_it_waits(site)
            await trio.sleep(0.3)
            assert answers == []
            assert site.charges() == {}
            lock.execute("ROLLBACK")
            await holds_true(lambda: answers)
        assert answers[0].status == 200
        assert site.charges() == {answers[0].gen_id: answers[0].price}
        await site.at_rest()
        assert site.lines("commit_late") == []
        site.check_books()


async def test_a_call_that_is_killed_while_it_waits_is_charged_once(tmp_path: Path) -> None:
    """Its line is in the journal: the provider has answered, and all that was missing is the commit."""
    async with open_site(tmp_path, ledger=POWER_LOSS) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.locked():
            async with await site.connect() as stream:
                await stream.send_all(encode(question(key.secret, WHOLE)))
                await _until_it_waits(site)
                await site.kill()
        for _ in range(2):  # the second start finds nothing to do
            await site.start()
            (record,) = site.records()
            assert record["ended"] != "crashed"
            assert site.charges() == {record["gen_id"]: price_of(WHOLE.prompt, WHOLE.completion)}
            assert site.voided() == []
            site.check_books()
            await site.kill()


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "committed"])
async def test_an_answer_whose_commit_is_late_is_given_and_charged_once(tmp_path: Path, killed: bool) -> None:
    """The commit does not come within total_s: the answer goes out a second before that, and the log tells of it."""
    async with open_site(tmp_path, ledger=POWER_LOSS, timeouts=f"total_s = {TOTAL_S}") as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.locked():
            began = time.monotonic()
            one = await call_once(site, key.secret, WHOLE)
            took_s = time.monotonic() - began
            assert one.status == 200
            assert one.price
            assert took_s >= TOTAL_S - TO_SEND_S
            assert site.charges() == {}
            (line,) = site.lines("commit_late")
            assert (line["gen_id"], line["level"]) == (one.gen_id, "error")
            if killed:
                await site.kill()
        if killed:
            await site.start()
        await site.at_rest()
        assert site.charges() == {one.gen_id: one.price}
        assert [(record["status"], record["ended"]) for record in site.records()] == [(200, "complete")]
        assert site.voided() == []
        site.check_books()
