"""Two hundred real calls at once against credit, a spend cap and a rate for exactly seven; changes by others in time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio

from gateway.core.money import PicoUsd
from gateway.core.usage import estimate_prompt_tokens
from gateway.store import accounts, keys
from gateway.store.keys import KeyTerms
from tests.crash.caller import call, question
from tests.crash.site import SOON_S, Site, open_site, price_of
from tests.crash.upstream import Script
from tests.wire import Answer
from tests.wire_h1 import H1Client, encode

CALLS, PASS = 200, 7
FIRST = 1000  # numbers of one length, so that all bodies have one estimate
COUNTS_S = 1.0  # what another process changes counts within this


def _script(number: int) -> Script:
    return Script(FIRST + number, waits=True, prompt=20, completion=7)


def _hold() -> int:
    return price_of(estimate_prompt_tokens(_script(0).body()), 64)


async def _all_at_once(site: Site, secret: str) -> list[Answer]:
    """All calls, each on a connection of its own; the provider answers none before all others were refused."""
    answers: list[Answer] = []

    async def one(number: int) -> None:
        async with await site.connect() as stream:
            answers.append(await H1Client(stream).ask(question(secret, _script(number))))
        if len(answers) == CALLS - PASS:
            site.upstream.go.set()

    with trio.fail_after(3 * SOON_S):
        async with trio.open_nursery() as nursery:
            for number in range(CALLS):
                nursery.start_soon(one, number)
    return answers


def _check(site: Site, answers: list[Answer], refusal: int) -> None:
    """Seven passed, and the first seven to be answered were not they: the provider waited for the refusals."""
    assert Counter(answer.status for answer in answers) == {200: PASS, refusal: CALLS - PASS}
    assert {answer.status for answer in answers[: CALLS - PASS]} == {refusal}
    assert sum(site.upstream.seen.values()) == PASS
    passed = {answer.header("x-generation-id") or "" for answer in answers if answer.status == 200}
    assert site.charges() == dict.fromkeys(passed, price_of(20, 7))
    site.check_books()


async def test_credit_for_seven(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        account = site.account("acme", pico_usd=PASS * _hold() + _hold() - 1)
        key = site.key(account)
        await site.start()
        answers = await _all_at_once(site, key.secret)
        await site.at_rest()
        _check(site, answers, 402)
        assert site.balance(account) == PASS * _hold() + _hold() - 1 - PASS * price_of(20, 7)
        assert len(site.records()) == CALLS


async def test_credit_for_seven_that_cost_all_they_hold(tmp_path: Path) -> None:
    """Not one more passes later either: the balance ends at zero."""
    scripts = (Script(FIRST, prompt=prompt, completion=64) for prompt in range(10, 500))
    script = next(script for script in scripts if estimate_prompt_tokens(script.body()) == script.prompt)
    async with open_site(tmp_path) as site:
        account = site.account("acme", pico_usd=PASS * price_of(script.prompt, script.completion))
        key = site.key(account)
        await site.start()
        async with await site.connect() as stream:
            statuses = [(await call(stream, key.secret, script)).status for _ in range(2 * PASS)]
        assert statuses == [200] * PASS + [402] * PASS
        await site.at_rest()
        assert site.balance(account) == 0
        site.check_books()


async def test_a_spend_cap_for_seven(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1), terms=KeyTerms(spend_limit=PicoUsd(PASS * _hold())))
        await site.start()
        answers = await _all_at_once(site, key.secret)
        await site.at_rest()
        _check(site, answers, 402)


async def test_seven_requests_a_minute(tmp_path: Path) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1), terms=KeyTerms(rpm=PASS))
        await site.start()
        began = time.monotonic()
        answers = await _all_at_once(site, key.secret)
        assert time.monotonic() - began < 60 / PASS, "the machine is too slow for this test: an eighth call was due"
        await site.at_rest()
        _check(site, answers, 429)
        for answer in answers:
            assert answer.header("x-ratelimit-limit-requests") == str(PASS)
            if answer.status == 429:
                assert 1 <= int(answer.header("retry-after") or "") <= 60 // PASS + 1
                assert answer.header("x-ratelimit-remaining-requests") == "0"
                assert f"Rate limit exceeded: {PASS} RPM".encode() in answer.body


async def _seconds_until(site: Site, secret: str, wanted: int, change: Callable[[], Awaitable[object]]) -> float:
    """How long after `change` returned calls are answered so; until then they are what they were before."""
    async with await site.connect() as stream:
        before = (await call(stream, secret, Script(1))).status
        assert before != wanted
        await change()
        changed_at = time.monotonic()
        with trio.fail_after(SOON_S):
            status = before
            while status == before:
                status = (await call(stream, secret, Script(1))).status
        assert status == wanted
        return time.monotonic() - changed_at


async def test_what_changes_while_a_body_is_on_its_way_counts(tmp_path: Path) -> None:
    """The head came before: a body may take server.body_s, and a change of its key counts within a second."""
    wanted = {"revoked": 401, "disabled": 401, "suspended": 403, "capped": 402, "renamed": 200, "untouched": 200}
    statuses: dict[str, int] = {}
    async with open_site(tmp_path) as site, AsyncExitStack() as connections:
        made = {name: site.key(site.account(name, usd=1)) for name in wanted}
        scripts = {name: Script(number) for number, name in enumerate(wanted)}
        requests = {name: encode(question(made[name].secret, scripts[name])) for name in wanted}
        await site.start()
        streams = {name: await connections.enter_async_context(await site.connect()) for name in wanted}
        for name, stream in streams.items():
            await stream.send_all(requests[name][:-20])
        await site.until_in_flight(len(wanted))
        keys.revoke(site.conn, made["revoked"].id)
        keys.update(site.conn, made["disabled"].id, lambda name, _: (name, KeyTerms(disabled=True)))
        keys.update(site.conn, made["capped"].id, lambda name, _: (name, KeyTerms(spend_limit=PicoUsd(1))))
        keys.update(site.conn, made["renamed"].id, lambda _, terms: ("another", terms))
        accounts.set_suspended(site.conn, accounts.find(site.conn, "suspended").id, suspended=True)
        await trio.sleep(COUNTS_S)
        for name, stream in streams.items():
            await stream.send_all(requests[name][-20:])
            statuses[name] = (await H1Client(stream).answer()).status
        assert statuses == wanted
        assert set(site.upstream.seen) == {scripts[name].number for name in wanted if wanted[name] == 200}
        await site.at_rest()
        assert {record["key_name"] for record in site.records(made["renamed"].id)} == {"another"}
        assert len(site.charges()) == 2


@pytest.mark.parametrize(
    ("name", "wanted", "command"),
    [
        ("revoked", 401, ["keys", "revoke", "KEY"]),
        ("suspended", 403, ["accounts", "suspend", "acme"]),
        ("granted", 200, ["credits", "grant", "--account", "acme", "--usd", "1.00"]),
    ],
)
async def test_a_command_counts_within_a_second(tmp_path: Path, name: str, wanted: int, command: list[str]) -> None:
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=0 if wanted == 200 else 1))
        words = [key.id if word == "KEY" else word for word in command]

        async def change() -> None:
            done = await trio.to_thread.run_sync(lambda: site.process.command(*words))
            assert done.returncode == 0, done.stderr

        await site.start()
        took_s = await _seconds_until(site, key.secret, wanted, change)
        assert took_s < COUNTS_S
        print(f"{name}: {took_s:.3f} s")


async def test_a_disabled_key_counts_within_a_second_while_others_write(tmp_path: Path) -> None:
    """Another process takes the write lock again and again, as a batch of imports would."""
    async with open_site(tmp_path) as site:
        key = site.key(site.account("acme", usd=1))
        await site.start()

        async def change() -> None:
            keys.update(site.conn, key.id, lambda name, _: (name, KeyTerms(disabled=True)))
            site.conn.execute("BEGIN IMMEDIATE")

        took_s = await _seconds_until(site, key.secret, 401, change)
        site.conn.execute("ROLLBACK")
        assert took_s < COUNTS_S
        print(f"disabled: {took_s:.3f} s")
