"""The header `x-route`: what it says, and that it is one, whatever it has to say."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.call import AttemptNote, Call
from gateway.explain import ROUTE_BYTES_MAX, how_routed, is_asked_for, route_header

LEGAL = re.compile(rb"[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?")  # a field value of RFC 9110, 5.5, without obs-text
FAILED = AttemptNote("openai", "status_500", 500, 120.04, model="x/m", upstream_model="gpt", reason="price", at_ms=0.26)
HEDGE = AttemptNote("azure", "won", 200, 80.5, 17, "x/m", "gpt-eu", "hedge", 1000.0)


def call_of(*notes: AttemptNote, model: str = "x/m") -> Call:
    call = Call("request", "gen", "test", 0.0, 0.0)
    call.model = model
    call.attempts.extend(notes)
    return call


ASKED: list[tuple[list[tuple[bytes, bytes]], bool]] = [
    ([], False),
    ([(b"x-route-explain", b"1")], True),
    ([(b"x-route-explain", b"true")], True),
    ([(b"x-route-explain", b"TRUE")], True),
    ([(b"x-route-explain", b"0")], False),
    ([(b"x-route-explain", b"false")], False),
    ([(b"x-route-explain", b"")], False),
    ([(b"x-openrouter-metadata", b"enabled")], True),
    ([(b"x-openrouter-metadata", b"Enabled")], True),
    ([(b"x-openrouter-metadata", b"disabled")], False),
    ([(b"x-route", b"1"), (b"explain", b"1")], False),
    ([(b"x-route-explain", b"0"), (b"x-openrouter-metadata", b"enabled")], True),
]


@pytest.mark.parametrize(("headers", "asked"), ASKED)
def test_who_asks(headers: list[tuple[bytes, bytes]], asked: bool) -> None:
    assert is_asked_for([(b"host", b"1"), *headers]) is asked


def test_what_an_answer_says_of_its_routing() -> None:
    call, asking = call_of(HEDGE), [(b"x-route-explain", b"1")]
    assert how_routed(call, [], None) == []
    assert how_routed(call, [], "coding") == [(b"x-auto-resolved-model", b"x/m")]
    assert how_routed(call, asking, None) == [route_header(call, None)]
    assert how_routed(call, asking, "coding") == [(b"x-auto-resolved-model", b"x/m"), route_header(call, "coding")]


def test_every_attempt_up_to_the_answer() -> None:
    name, value = route_header(call_of(FAILED, HEDGE), None)
    assert name == b"x-route"
    assert json.loads(value) == {
        "model": "x/m",
        "attempts": [
            {"provider": "openai", "model": "x/m", "reason": "price", "delay_ms": 0.3, "outcome": "status_500", "status": 500, "ms": 120.0},
            {"provider": "azure", "model": "x/m", "reason": "hedge", "delay_ms": 1000.0, "outcome": "won", "status": 200, "ms": 80.5},
        ],
    }  # fmt: skip
    assert b" " not in value  # compact


def test_a_note_without_a_model_is_of_the_calls_own() -> None:
    _, value = route_header(call_of(AttemptNote("a", "won", 200, 5.0), model="x/other"), None)
    assert json.loads(value)["attempts"][0]["model"] == "x/other"


def test_what_was_not_answered_has_no_status() -> None:
    _, value = route_header(call_of(AttemptNote("a", "connect_error", 0, 5.0)), None)
    assert json.loads(value)["attempts"][0]["status"] is None


def test_nothing_of_what_it_cost_or_of_who_asked() -> None:
    _, value = route_header(call_of(HEDGE), None)
    assert not re.search(rb"cost|17|key|account|request", value)


def test_the_class_of_the_auto_router() -> None:
    assert json.loads(route_header(call_of(), "coding")[1]) == {"model": "x/m", "attempts": [], "class": "coding"}
    assert "class" not in json.loads(route_header(call_of(), None)[1])


@pytest.mark.parametrize("count", [1, 20, 40, 1000])
def test_of_very_many_attempts_the_last_ones(count: int) -> None:
    notes = [AttemptNote(f"provider-{index}", "status_500", 500, 1.0) for index in range(count)]
    _, value = route_header(call_of(*notes), None)
    shown = [each["provider"] for each in json.loads(value)["attempts"]]
    assert len(value) <= ROUTE_BYTES_MAX
    assert shown == [note.provider for note in notes[count - len(shown) :]]
    assert len(shown) >= min(count, 15)


def test_what_is_too_long_without_any_attempt_is_nothing() -> None:
    assert route_header(call_of(HEDGE, model="x/" + "m" * ROUTE_BYTES_MAX), None)[1] == b"{}"


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=60)  # as a configuration may name things
NUMBERS = st.floats(0, 1e9)
NOTES = st.builds(AttemptNote, TEXT, TEXT, st.integers(0, 999), NUMBERS, model=TEXT, reason=TEXT, at_ms=NUMBERS)


@settings(max_examples=200)
@given(st.lists(NOTES, max_size=24), TEXT, st.none() | TEXT)
def test_it_is_short_ascii_json_and_a_legal_header(notes: list[AttemptNote], model: str, name: str | None) -> None:
    _, value = route_header(call_of(*notes, model=model), name)
    assert LEGAL.fullmatch(value)
    assert len(value) <= ROUTE_BYTES_MAX
    told = json.loads(value)
    assert (told["model"], told.get("class")) == (model, name)
    shown = [(each["provider"], each["outcome"], each["reason"], each["model"]) for each in told["attempts"]]
    last = notes[len(notes) - len(shown) :]
    assert shown == [(each.provider, each.outcome, each.reason, each.model or model) for each in last]


def test_names_in_any_script_come_back_as_they_were() -> None:
    _, value = route_header(call_of(AttemptNote("通义 🚀 é", "won", 200, 1.0)), "Ω")
    assert value.isascii()
    assert json.loads(value)["attempts"][0]["provider"] == "通义 🚀 é"


def test_long_names_in_any_script_are_short_as_a_header() -> None:
    """A character of three bytes in UTF-8 takes six as an escape."""
    notes = [AttemptNote("通" * 60, "won", 200, 1.0)] * 12
    assert len(route_header(call_of(*notes), None)[1]) <= ROUTE_BYTES_MAX
