"""A crash before any commit: another process holds the write lock, so that all there is of a call is its journal line."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import trio

from gateway.core.money import PicoUsd
from gateway.core.usage import estimate_prompt_tokens
from gateway.store import keys
from gateway.store.keys import KeyTerms
from tests.crash.caller import call_once, question
from tests.crash.site import holds_true, open_site, price_of
from tests.crash.upstream import Script
from tests.wire_h1 import H1Client, encode

ENDED = (
    Script(1),
    Script(2, stream=True, frames=5),
    Script(3, stream=True, frames=5, gap_s=0.002),
    Script(4, stream=True, frames=7, usage=False),
    Script(5, stream=True, frames=9, gap_s=0.002, cut_after=6),
    Script(6, prompt=0, completion=0),
    Script(7, prompt=5000, completion=4000),  # beyond its hold
)


async def test_every_charge_is_replayed_once(tmp_path: Path) -> None:
    """Of a call that cost nothing there is no line; its hold tells of it."""
    async with open_site(tmp_path) as site:
        account = site.account("acme", usd=1)
        key = site.key(account)
        await site.start()
        with site.locked():
            told = [await call_once(site, key.secret, script) for script in ENDED]
            assert [one.status for one in told] == [200] * len(ENDED)
            assert site.charges() == {}
            await site.kill()
        at_no_cost = [one.gen_id for one in told if one.price == 0]
        assert len(at_no_cost) == 1
        for voided in (at_no_cost, []):  # the second start finds nothing to do
            await site.start()
            assert site.charges() == {one.gen_id: one.price for one in told if one.price}
            site.check_books()
            assert len(site.segments()) <= 2
            assert site.voided() == voided
            ended = {record["gen_id"]: record["ended"] == "crashed" for record in site.records()}
            assert ended == {one.gen_id: one.gen_id in at_no_cost for one in told}
            await site.kill()
        assert site.balance(account) == 10**12 - sum(one.price or 0 for one in told)


async def test_what_was_replayed_counts_against_the_spend_limit(tmp_path: Path) -> None:
    script, again = Script(1, completion=64), Script(2, completion=64)
    hold = price_of(estimate_prompt_tokens(script.body()), 64)
    async with open_site(tmp_path) as site:
        spent = price_of(script.prompt, script.completion)
        terms = KeyTerms(spend_limit=PicoUsd(spent + hold - 1))
        key = site.key(site.account("acme", usd=1), terms=terms)
        await site.start()
        with site.locked():
            assert (await call_once(site, key.secret, script)).price == spent
            await site.kill()
        await site.start()
        assert (await call_once(site, key.secret, again)).status == 402
        keys.update(site.conn, key.id, lambda name, _: (name, KeyTerms(spend_limit=PicoUsd(spent + hold))))
        await trio.sleep(1)
        assert (await call_once(site, key.secret, again)).status == 200


async def test_a_call_that_failed_is_on_record(tmp_path: Path) -> None:
    """It held credit and the provider saw it: its generation id is known to a client, who may ask what became of it.

    Its hold stays noted until its record is committed, and no longer.
    """
    failing = [Script(1, status=500), Script(2, status=400)]
    async with open_site(tmp_path) as site:
        account = site.account("acme", usd=1)
        key = site.key(account)
        await site.start()
        committed = [await call_once(site, key.secret, script) for script in failing]
        await site.at_rest()
        with site.locked():
            waiting = [await call_once(site, key.secret, script) for script in failing]
            assert [one.status for one in (*committed, *waiting)] == [502, 400] * 2
            await site.until_in_flight(0)
            assert (await site.levels())["gateway_credit_held_usd"] == 0
            await site.kill()
        await site.start()
        assert sorted(site.voided()) == sorted(one.gen_id for one in waiting)
        assert [(record["gen_id"], record["status"], record["cost_pico_usd"]) for record in site.records()] == [
            *((one.gen_id, one.status, 0) for one in committed),
            *((one.gen_id, 0, 0) for one in waiting),
        ]
        assert site.balance(account) == 10**12


async def test_what_a_free_call_cost_us_is_replayed(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.locked():
            told = await call_once(site, key.secret, Script(1, prompt=10, completion=5), model="t/free")
            assert told.status == 200
            await site.kill()
        await site.start()
        assert [(record["gen_id"], record["provider_cost_pico_usd"]) for record in site.records()] == [
            (told.gen_id, price_of(10, 5))
        ]
        assert site.charges() == {}
        site.check_books()


@pytest.mark.parametrize("log", ["calls = true", "calls = false"])
async def test_open_holds_are_void_and_logged(tmp_path: Path, log: str) -> None:
    """Calls that wait for their provider, and one in mid-stream: no charge, one record and one line each.

    Who wants no line of each call is told of these all the same.
    """
    async with open_site(tmp_path, log=log) as site:
        account = site.account("acme", usd=1)
        key = site.key(account)
        await site.start()
        waiting = [
            Script(1, waits=True),
            Script(2, stream=True, waits=True),
            Script(3, stream=True, frames=9, waits_after=4),
        ]
        async with trio.open_nursery() as nursery:
            for script in waiting:
                stream = await site.connect()
                nursery.start_soon(_ignore_all, stream, encode(question(key.secret, script)))
            await holds_true(lambda: site.upstream.under_way == len(waiting))
            assert (await site.levels())["gateway_credit_held_usd"] > 0
            await site.kill()
        await site.start()
        assert (await site.levels())["gateway_credit_held_usd"] == 0
        records = site.records()
        assert [(r["ended"], r["code"], r["cost_pico_usd"], r["key_id"]) for r in records] == [
            ("crashed", "gateway_crashed", 0, key.id)
        ] * len(waiting)
        assert sorted(site.voided()) == sorted(record["gen_id"] for record in records)
        assert site.balance(account) == 10**12
        site.check_books()
        last = await call_once(site, key.secret, Script(4))
        await site.at_rest()
        assert [line["gen_id"] for line in site.lines("call")] == ([last.gen_id] if log == "calls = true" else [])


async def _ignore_all(stream: trio.SocketStream, request: bytes) -> None:
    async with stream:
        await stream.send_all(request)
        with contextlib.suppress(trio.BrokenResourceError):
            while await stream.receive_some():
                pass


IDEMPOTENT = (b"idempotency-key", b"order-17")


@pytest.mark.parametrize("script", [Script(1, stream=True, frames=3), Script(1, prompt=0, completion=0)])
async def test_an_idempotency_key_is_used_after_a_crash(tmp_path: Path, script: Script) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        with site.locked():
            first = await call_once(site, key.secret, script, IDEMPOTENT)
            assert first.status == 200
            await site.kill()
        await site.start()
        async with await site.connect() as stream:
            answer = await H1Client(stream).ask(question(key.secret, script, IDEMPOTENT))
        assert answer.status == 409
        assert b'"idempotency_key_used"' in answer.body
        assert site.upstream.seen == {1: 1}
        assert site.charges() == ({first.gen_id: first.price} if first.price else {})


@pytest.mark.parametrize(
    ("script", "killed"),
    [(Script(1, status=500), True), (Script(1, stream=True, frames=9, gap_s=0.002, cut_after=4), False)],
    ids=["killed", "stopped"],
)
async def test_the_key_of_a_failed_call_may_be_used_again_after_a_restart(
    tmp_path: Path, script: Script, killed: bool
) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()
        failed = await call_once(site, key.secret, script, IDEMPOTENT)
        assert failed.status in {200, 502}
        await (site.kill() if killed else site.stop())
        await site.start()
        good = Script(2)
        again = await call_once(site, key.secret, good, IDEMPOTENT)
        assert (again.status, again.price) == (200, price_of(good.prompt, good.completion))
