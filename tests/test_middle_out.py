"""Middle-out: what goes, what stays, and that what a hostile body costs is bounded."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.usage import estimate_prompt_tokens
from gateway.dialects.middle_out import MARKER, MESSAGES_MAX, TEXT_TOKENS_MIN, middle_out

MARK = MARKER.decode()
RAWS = msgspec.json.Decoder(list[msgspec.Raw])
Message = dict[str, Any]


def raw(messages: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(messages, separators=(",", ":")).encode())


def split(array: msgspec.Raw) -> list[bytes]:
    return [bytes(item) for item in RAWS.decode(array)]


def count(array: bytes) -> int:
    """An estimate by which each message is one token."""
    messages = json.loads(array)
    return len(messages) if isinstance(messages, list) else 1


def talk(roles: str) -> list[Message]:
    """`s`ystem, `d`eveloper, `u`ser, `a`ssistant; `c` an assistant's call and `t` its answer, `f` one without an id."""
    messages: list[Message] = []
    for index, role in enumerate(roles):
        message: Message = {
            "role": {"s": "system", "d": "developer", "u": "user", "t": "tool", "f": "function"}.get(role, "assistant"),
            "content": f"{role}{index}",
        }
        if role == "c":
            message["tool_calls"] = [
                {"id": f"call_{index}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            ]
        if role == "t":
            message["tool_call_id"] = f"call_{roles.rindex('c', 0, index)}"
        messages.append(message)
    return messages


def kept(messages: list[Message], tokens: int, limit: int | None = None) -> str | None:
    """The indexes of the messages that stay, as text."""
    answer = middle_out(raw(messages), tokens_max=tokens, estimate=count, messages_max=limit)
    if answer is None:
        return None
    contents = [message["content"] for message in messages]
    return " ".join(str(contents.index(message["content"])) for message in json.loads(bytes(answer)))


@pytest.mark.parametrize(
    ("roles", "tokens", "stay"),
    [
        ("suauau", 6, "0 1 2 3 4 5"),
        ("suauau", 5, "0 3 4 5"),  # the first user would stand beside another
        ("suauau", 4, "0 1 4 5"),
        ("suauau", 3, "0 5"),  # an assistant does not open the talk
        ("suauau", 2, "0 5"),
        ("suauau", 1, None),
        ("uauauauauau", 8, "0 1 6 7 8 9 10"),
        ("uauauauauau", 7, "0 1 2 7 8 9 10"),
        ("uauauauauau", 6, "0 1 8 9 10"),
        ("uauauauauau", 5, "0 1 8 9 10"),
        ("uauauauauau", 4, "8 9 10"),
        ("sduauauau", 6, "0 1 6 7 8"),
        ("sduauauau", 5, "0 1 2 7 8"),
        ("auauau", 3, "0 5"),  # it did open this one
        ("uuuuuu", 4, "0 3 4 5"),  # roles that never took turns need not
        ("uuuuuu", 3, "0 4 5"),
        ("suauaucta", 5, "0 5 6 7 8"),  # what follows the last user stays
        ("suauaucta", 4, None),
        ("uaaa", 2, None),
        ("saaaa", 3, "0 3 4"),  # without a user the last message stays
        ("sasas", 4, "0 1 4"),
        ("ssss", 4, "0 1 2 3"),
        ("ssss", 3, None),
        ("u", 1, "0"),
        ("u", 0, None),
    ],
)
def test_messages_go_from_the_middle(roles: str, tokens: int, stay: str | None) -> None:
    assert kept(talk(roles), tokens) == stay


@pytest.mark.parametrize(
    ("roles", "tokens", "stay"),
    [
        ("uctau", 4, "0 3 4"),
        ("ucttau", 5, "0 4 5"),
        ("uctctau", 6, "0 3 4 5 6"),
        ("uctctau", 4, "0 5 6"),
        ("uctctctau", 8, "0 1 2 5 6 7 8"),
        ("ufau", 3, "3"),
        ("sffuau", 3, None),  # answers to nobody at the start: they stay with what they follow
        ("sffuau", 5, "0 1 2 4 5"),
        ("ucauau", 5, "0 1 3 4 5"),  # a call that nobody answered binds nothing
    ],
)
def test_calls_and_answers_go_together(roles: str, tokens: int, stay: str | None) -> None:
    assert kept(talk(roles), tokens) == stay


def test_calls_are_matched_by_id_wherever_their_answers_stand() -> None:
    messages = talk("uccuttauau")
    messages[4]["tool_call_id"], messages[5]["tool_call_id"] = "call_2", "call_1"
    for tokens in range(1, 10):
        stay = kept(messages, tokens)
        if stay is not None:
            assert len({"1", "2", "4", "5"} & set(stay.split())) in {0, 4}, stay


def test_an_answer_after_the_last_user_keeps_its_call() -> None:
    messages = talk("uacaut")
    assert kept(messages, 4) == "2 3 4 5"
    assert kept(messages, 3) is None


@pytest.mark.parametrize(
    "calls", ["x", 5, {}, [5], [{}], [{"id": None}], [{"id": 7}], [None], [[]], [{"id": "a", "role": 5}]]
)
def test_malformed_calls_are_tied_by_place(calls: object) -> None:
    messages = talk("uctau")
    messages[1]["tool_calls"] = calls
    del messages[2]["tool_call_id"]
    assert kept(messages, 4) == "0 3 4"


@pytest.mark.parametrize(
    ("roles", "limit", "stay"),
    [
        ("suauauauau", 10, "0 1 2 3 4 5 6 7 8 9"),
        ("suauauauau", 6, "0 1 2 7 8 9"),
        ("suauauauau", 2, "0 9"),
        ("suauauauau", 1, None),
    ],
)
def test_too_many_messages(roles: str, limit: int, stay: str | None) -> None:
    assert kept(talk(roles), 100, limit) == stay


def test_both_limits_hold() -> None:
    assert kept(talk("suauauauau"), 4, 8) == kept(talk("suauauauau"), 8, 4) == "0 1 8 9"


def test_a_side_ends_at_what_does_not_fit_and_the_other_goes_on() -> None:
    messages = talk("sauauauauau")
    messages[2]["content"] = "x" * 1000
    whole = raw(messages)
    answer = middle_out(whole, tokens_max=len(bytes(whole)) - 500, estimate=len)
    assert answer is not None
    # The long one goes, and the answer to it.
    assert [item for item in split(whole) if item not in split(answer)] == split(whole)[2:4]


def test_what_fits_is_the_same_object() -> None:
    whole = msgspec.Raw(b' [ {"role" : "user"} ] ')
    assert middle_out(whole, tokens_max=100, estimate=len) is whole
    assert middle_out(whole, tokens_max=100, estimate=len, messages_max=1) is whole
    assert middle_out(whole, tokens_max=100, estimate=len, messages_max=0) is None


def test_an_estimate_that_never_fits_ends() -> None:
    calls = 0

    def estimate(array: bytes) -> int:
        nonlocal calls
        calls += 1
        return 1000 if array.startswith(b"[") and len(RAWS.decode(array)) > 2 else 5

    answer = middle_out(raw(talk("suauauauau")), tokens_max=100, estimate=estimate)
    assert answer is not None
    assert len(split(answer)) == 2
    assert calls < 100


# Texts are cut when only messages that stay are left. By `len` a token is a byte.


def shortened(messages: list[Message], tokens: int) -> list[Message] | None:
    answer = middle_out(raw(messages), tokens_max=tokens, estimate=len)
    if answer is None:
        return None
    assert len(bytes(answer)) <= tokens
    found: list[Message] = json.loads(bytes(answer))
    return found


def test_the_longest_text_loses_its_middle() -> None:
    found = shortened(
        [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "a" * 2000 + "b" * 2000}], 1400
    )
    assert found is not None
    assert found[0]["content"] == "s" * 300
    match = re.fullmatch(r"(a+) \[\.\.\.\] (b+)", found[1]["content"])
    assert match
    assert abs(len(match[1]) - len(match[2])) <= 1
    assert len(match[1]) > 480


def test_several_long_texts_are_cut_to_one_level() -> None:
    messages = [{"role": "user", "content": letter * size} for letter, size in (("a", 3000), ("b", 900), ("c", 200))]
    messages[1]["role"] = messages[2]["role"] = "assistant"
    found = shortened(messages, 1500)
    assert found is not None
    sizes = [len(message["content"]) for message in found]
    assert sizes[2] == 200
    assert sizes[0] == sizes[1]
    assert 1480 <= len(bytes(raw(found))) <= 1500


def test_what_stays_of_a_text_may_be_denser_than_the_rest() -> None:
    text = "漢" * 3000 + "a" * 20_000 + "漢" * 3000
    whole = msgspec.Raw(json.dumps([{"role": "user", "content": text}], ensure_ascii=False).encode())
    for tokens in (5000, 2000, 500):
        answer = middle_out(whole, tokens_max=tokens, estimate=estimate_prompt_tokens)
        assert answer is not None
        assert 0.8 * tokens < estimate_prompt_tokens(bytes(answer)) <= tokens


def test_dropped_messages_come_before_cut_texts() -> None:
    messages = talk("suauau")
    messages[5]["content"] = "x" * 5000
    found = shortened(messages, 1000)
    assert found is not None
    assert [message["content"][:2] for message in found] == ["s0", "xx"]


PNG = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}


def test_of_parts_only_texts_are_cut() -> None:
    parts = [
        {"type": "text", "text": "short"},
        PNG,
        {"type": "text", "text": "y" * 3000, "cache_control": {"type": "ephemeral"}},
    ]
    found = shortened([{"role": "user", "content": parts, "name": "n"}], 5000)
    assert found is not None
    content = found[0]["content"]
    assert content[:2] == parts[:2]
    assert content[2]["cache_control"] == {"type": "ephemeral"}
    assert MARK in content[2]["text"]
    assert found[0]["name"] == "n"
    assert shortened([{"role": "user", "content": [PNG]}], 4000) is None


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "document", "text": "x" * 3000}]},
        {"role": "user", "content": [{"type": "text", "text": {"content": "x" * 3000}}]},
        {"role": "user", "content": [{"type": "text", "text": "x"}] * 500},
        {"role": "user", "content": {"text": "x" * 3000}},
        {"role": "user", "name": "x" * 3000},
        {"role": "user", "content": 10**3000},
        {"role": "user", "content": None, "text": "x" * 3000},
        {"role": "user", "content": ["x" * 3000, 5, None]},
    ],
)
def test_what_is_no_text_is_not_cut(message: Message) -> None:
    assert shortened([message], 1000) is None


def test_no_text_is_cut_to_nothing() -> None:
    message = {"role": "user", "content": "x" * 3000}
    least = len(bytes(raw([{"role": "user", "content": "x" * TEXT_TOKENS_MIN}])))
    assert shortened([message], least + 1) is not None
    assert shortened([message], least - 1) is None


@pytest.mark.parametrize(
    "text",
    [
        '{"role":"user","meta":{"content":"%s"},"content":"%s"}',
        '{"role":"user","content":"%s","meta":{"content":"%s"}}',
        '{"content" : \t"%s" , "role":"user","x":"%s"}',
        '{"role":"user","x":"\\"content\\":%s","content":"%s"}',
        '{"role":"user","content\\"content":"%s","content":"%s"}',
        '{"role":"user","content":[{"type":"text","cache":{"text":"%s"},"text":"%s"}]}',
        '{"role":"user","content":[ {"text":"short","type":"text"} ,\n{"x":"%s","type":"text", "text" : "%s"}\t]}',
    ],
)
def test_it_is_the_content_that_is_cut_and_every_other_byte_stays(text: str) -> None:
    long = "z" * 2000
    message = (text % (long, long)).encode()
    answer = middle_out(msgspec.Raw(b"[%b]" % message), tokens_max=3500, estimate=len)
    assert answer is not None
    (found,) = split(answer)
    before, _, after = found.partition(MARKER)
    assert message.startswith(before)
    assert message.endswith(after)

    def texts(raw_message: bytes) -> str:
        content = json.loads(raw_message)["content"]
        return content if isinstance(content, str) else content[-1]["text"]

    assert texts(message) == long
    assert MARK in texts(found)


def test_a_key_with_escapes_is_left_alone() -> None:
    message = '{"role":"user","cont\\u0065nt":"%s","x":{"content":"%s"}}' % (("z" * 2000,) * 2)
    assert middle_out(msgspec.Raw(f"[{message}]".encode()), tokens_max=3000, estimate=len) is None


CHARACTERS = st.sampled_from(["a", "é", "漢", "😀", "\\", '"', "\n", "\x01", "/", "0", "\u2028", "u", "d83d"])


@given(st.lists(CHARACTERS, min_size=150, max_size=400).map("".join), st.booleans(), st.integers(30, 900))
def test_a_cut_splits_no_character(text: str, ascii_only: bool, tokens: int) -> None:
    whole = msgspec.Raw(json.dumps([{"role": "user", "content": text}], ensure_ascii=ascii_only).encode())
    answer = middle_out(whole, tokens_max=tokens, estimate=len)
    if answer is None:
        assert tokens < 200
        return
    assert len(bytes(answer)) <= tokens or answer is whole
    content = json.loads(bytes(answer))[0]["content"]
    content.encode()  # no half of a pair
    if answer is not whole:
        halves = content.split(MARK)
        assert len(halves) == 2
        assert text.startswith(halves[0])
        assert text.endswith(halves[1])
        assert len(halves[0]) + len(halves[1]) < len(text)


@pytest.mark.parametrize("run", [63, 64, 65, 4095, 4096, 4097, 8191, 8192, 20_001])
@pytest.mark.parametrize("lead", ["", "x"])
def test_a_long_run_of_backslashes_is_not_split(run: int, lead: str) -> None:
    text = lead + "\\" * run + "n"
    for tokens in range(run, run + 8):
        answer = middle_out(raw([{"role": "user", "content": text}]), tokens_max=tokens, estimate=len)
        if answer is not None:
            first, _, last = json.loads(bytes(answer))[0]["content"].partition(MARK)
            assert text.startswith(first)
            assert text.endswith(last)


PIECES = st.sampled_from([b"\\\\", b"ud83d", b"\\uD83D\\uDE00", b"\\u0041", b'\\"', b"\\n", b"x", "é".encode()])


@given(st.lists(PIECES, min_size=100, max_size=200).map(b"".join), st.integers(90, 400))
def test_a_cut_leaves_json(text: bytes, tokens: int) -> None:
    answer = middle_out(msgspec.Raw(b'[{"role":"user","content":"%b"}]' % text), tokens_max=tokens, estimate=len)
    assert answer is not None
    first, _, last = json.loads(bytes(answer))[0]["content"].partition(MARK)
    content = json.loads(b'"%b"' % text)
    assert content.startswith(first)
    assert content.endswith(last)


# Invariants over any conversation.

TEXTS = st.one_of(
    st.text(max_size=40), st.builds(lambda piece, n: piece * n, st.text(min_size=1, max_size=9), st.integers(1, 400))
)
CONTENTS = st.one_of(
    TEXTS, st.lists(st.one_of(TEXTS.map(lambda text: {"type": "text", "text": text}), st.just(PNG)), max_size=4)
)


@st.composite
def turns(draw: st.DrawFn) -> list[Message]:
    """Some turns of a talk: a user, calls with all their answers, an assistant."""
    messages: list[Message] = [{"role": "user", "content": draw(CONTENTS)}]
    for step in range(draw(st.integers(0, 3))):
        ids = draw(st.lists(st.sampled_from(["a", "b", "c", f"call_{step}"]), min_size=1, max_size=3, unique=True))
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": name, "function": {"name": "f"}} for name in ids],
            }
        )
        messages += [
            {"role": "tool", "tool_call_id": name, "content": draw(CONTENTS)} for name in draw(st.permutations(ids))
        ]
    if draw(st.booleans()):
        messages.append({"role": "assistant", "content": draw(CONTENTS)})
    return messages


TALKS = st.builds(
    lambda head, turns: [*head, *(message for turn in turns for message in turn)],
    st.lists(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "developer"]), TEXTS),
        max_size=2,
    ),
    st.lists(turns(), min_size=1, max_size=8),
)


def is_shortened(before: bytes, after: bytes) -> bool:
    old, new = json.loads(before), json.loads(after)
    old_content, new_content = old.pop("content"), new.pop("content")
    if old != new or type(old_content) is not type(new_content):
        return False
    if old_content is None:
        return True
    if isinstance(old_content, str):
        old_content, new_content = [{"text": old_content}], [{"text": new_content}]
    for part, cut in zip(old_content, new_content, strict=True):
        if part != cut:
            first, _, last = cut["text"].partition(MARK)
            if not (part["text"].startswith(first) and part["text"].endswith(last)):
                return False
    return True


def unanswered(messages: list[Message]) -> set[str]:
    """What is wrong with the calls of a talk, by the rule of the API: answers directly follow their call, and are all."""
    wrong: set[str] = set()
    waiting: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            wrong |= {message["tool_call_id"]} - waiting
            waiting.discard(message["tool_call_id"])
        else:
            wrong |= waiting
            waiting = {call["id"] for call in message.get("tool_calls", ())}
    return wrong | waiting


@settings(max_examples=300)
@given(TALKS, st.floats(0.02, 1.05), st.sampled_from([None, None, 5, 10]), st.sampled_from([None, 1]), st.booleans())
def test_invariants(
    messages: list[Message], share: float, limit: int | None, indent: int | None, ascii_only: bool
) -> None:
    whole = msgspec.Raw(json.dumps(messages, indent=indent, ensure_ascii=ascii_only).encode())
    tokens = int(share * estimate_prompt_tokens(bytes(whole)))
    answer = middle_out(whole, tokens_max=tokens, estimate=estimate_prompt_tokens, messages_max=limit)
    head = next(
        (n for n, message in enumerate(messages) if message["role"] not in {"system", "developer"}), len(messages)
    )
    tail = max(n for n, message in enumerate(messages) if message["role"] == "user")
    before = split(whole)
    least = b"[%b]" % b",".join([*before[:head], *before[tail:]])
    if answer is None:
        assert estimate_prompt_tokens(least) > tokens or (limit is not None and head + len(before) - tail > limit)
        return
    after = split(answer)
    fits = estimate_prompt_tokens(bytes(whole)) <= tokens and (limit is None or len(before) <= limit)
    assert (answer is whole) == fits
    assert estimate_prompt_tokens(bytes(answer)) <= tokens
    assert limit is None or len(after) <= limit
    assert unanswered([json.loads(item) for item in after]) == set()
    if estimate_prompt_tokens(least) > tokens:
        assert len(after) == head + len(before) - tail
        pairs = list(zip(before[:head] + before[tail:], after, strict=True))
        assert all(is_shortened(old, new) for old, new in pairs)
        assert any(old != new for old, new in pairs)
    else:
        gaps = [
            gap for gap in range(len(after) + 1) if before[:gap] + before[len(before) - len(after) + gap :] == after
        ]
        assert any(head <= gap and len(before) - len(after) + gap <= tail for gap in gaps)


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.sampled_from(["user", "tool", "a" * 300])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["role", "content", "tool_calls", "tool_call_id", "id", "type", "text", "x"]),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=25,
)


@given(st.one_of(JSON, st.lists(JSON, max_size=6)), st.integers(-1, 40), st.one_of(st.none(), st.integers(-1, 3)))
def test_any_json_is_answered(value: object, tokens: int, limit: int | None) -> None:
    answer = middle_out(raw(value), tokens_max=tokens, estimate=estimate_prompt_tokens, messages_max=limit)
    if answer is not None:
        assert estimate_prompt_tokens(bytes(answer)) <= tokens
        json.loads(bytes(answer))


@given(
    st.binary(max_size=60),
    st.sampled_from([b"%b", b"[%b]", b'[{"role":"user","content":"%b"}]', b'[{"role":"%b"},{"role":"user"}]']),
)
def test_any_bytes_are_answered(noise: bytes, frame: bytes) -> None:
    text = frame % (noise * 20)
    answer = middle_out(msgspec.Raw(text), tokens_max=60, estimate=len)
    assert answer is None or len(bytes(answer)) <= 60


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"{}",
        b"5",
        b'"x"',
        b"[",
        b"[1]",
        b"[[]]",
        b"[null]",
        b'[{"role":5}]',
        b'[{"role":null}]',
        b'[{"role":"\xff"}]',
        b'[{"role":"\\ud800"}]',
        b"[" * 5000 + b"]" * 5000,
        b"[{}]x",
    ],
)
def test_what_is_no_list_of_messages_is_not_made_to_fit(text: bytes) -> None:
    assert middle_out(msgspec.Raw(text), tokens_max=-1, estimate=len) is None
    assert middle_out(msgspec.Raw(text), tokens_max=-1, estimate=len, messages_max=9) is None


# Cost. Counts tell of the work, exactly; a generous clock tells of what they miss, such as work that grows as a square.

LINE = 'the quick brown fox said \\"hello\\" to 12 dogs\\n'


def long_talk(messages: int, text: str) -> bytes:
    items = [f'{{"role":"{("user", "assistant")[n % 2]}","content":"{text}"}}' for n in range(messages - 1)]
    return ("[" + ",".join([*items, '{"role":"user","content":"hi"}']) + "]").encode()


def test_what_is_dropped_is_not_estimated() -> None:
    sizes: list[int] = []

    def estimate(text: bytes) -> int:
        sizes.append(len(text))
        return estimate_prompt_tokens(text)

    whole = long_talk(MESSAGES_MAX, LINE * 20)
    answer = middle_out(msgspec.Raw(whole), tokens_max=20_000, estimate=estimate)
    assert answer is not None
    stay = split(answer)
    assert 50 < len(stay) < 100
    assert len(sizes) < len(stay) + 20
    assert sum(sizes) < len(whole) + 20 * len(bytes(answer))


def test_of_a_call_that_does_not_fit_few_answers_are_estimated() -> None:
    calls = 0

    def estimate(text: bytes) -> int:
        nonlocal calls
        calls += 1
        return estimate_prompt_tokens(text)

    answer = middle_out(raw(talk("uc" + "t" * 5000 + "au")), tokens_max=100, estimate=estimate)
    assert answer is not None
    assert len(split(answer)) == 3
    assert calls < 50


def test_more_messages_than_are_read() -> None:
    assert (
        middle_out(msgspec.Raw(long_talk(MESSAGES_MAX, "")), tokens_max=1000, estimate=estimate_prompt_tokens)
        is not None
    )
    assert (
        middle_out(msgspec.Raw(long_talk(MESSAGES_MAX + 1, "")), tokens_max=1000, estimate=estimate_prompt_tokens)
        is None
    )


def listed(pieces: Iterable[str]) -> str:
    return "[" + ",".join(pieces) + "]"


SHORT_TEXT = '{"type":"text","text":"' + "y" * 200 + '"}'
SHORT_CONTENT = '"content":"' + "y" * 200 + '"'
CALLS = listed(f'{{"id":"{n}"}}' for n in range(128))
USER = '{"role":"user"}'

HOSTILE: dict[str, Callable[[], str]] = {
    "numbers": lambda: listed(["1"] * 5_000_000),
    "empty messages": lambda: listed(["{}"] * 3_000_000),
    "depth": lambda: "[" * 900_000,
    "calls of one message": lambda: f'[{{"role":"assistant","tool_calls":{listed(["{}"] * 2_000_000)}}},{USER}]',
    "calls of all": lambda: listed([f'{{"role":"assistant","tool_calls":{CALLS}}}'] * 9000 + [USER]),
    "answers to nobody": lambda: listed([USER, *['{"role":"tool","tool_call_id":"5"}'] * 9000, "{}"]),
    "parts of one content": lambda: f'[{{"role":"user","content":{listed([SHORT_TEXT] * 40_000)}}}]',
    "parts of all": lambda: listed([USER, *[f'{{"content":{listed([SHORT_TEXT] * 127)}}}'] * 350]),
    "contents elsewhere": lambda: f'[{{"x":{listed(["{" + SHORT_CONTENT + "}"] * 40_000)},{SHORT_CONTENT}}}]',
    "keys elsewhere": lambda: '[{"x":{' + '"content":1,' * 800_000 + '"y":1},' + SHORT_CONTENT + "}]",
    "members": lambda: "[{" + ",".join(f'"{n:x}":1' for n in range(700_000)) + "}]",
    "backslashes": lambda: '[{"role":"user","content":"' + "\\\\" * 5_000_000 + '"}]',
    "escapes": lambda: '[{"role":"user","content":"' + "\\ud83d\\ude00" * 800_000 + '"}]',
    "messages that stay": lambda: listed([USER, *['{"content":"' + "x" * 1000 + '"}'] * 9000]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_10_mb_is_linear_work(name: str) -> None:
    messages = msgspec.Raw(HOSTILE[name]().encode())
    started = time.process_time()
    answer = middle_out(messages, tokens_max=20_000, estimate=estimate_prompt_tokens)
    took_s = time.process_time() - started
    assert answer is None or estimate_prompt_tokens(bytes(answer)) <= 20_000
    assert took_s < 1.0  # some 0.05 are used; work that grows as a square takes minutes
