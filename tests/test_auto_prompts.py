"""The auto router's evaluation set (bench/auto): well formed, balanced, and its held-out half stays unseen.

The halves are judged together: sizes, shares of classes and languages, ids, shape of the requests, and that no prompt
of one half is a copy or a near copy of another. Labels are a person's; no test here depends on a classifier.
"""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import msgspec
import pytest

FOLDER = Path(__file__).parent.parent / "bench" / "auto"
SPLITS = ("dev", "heldout")
Label: TypeAlias = Literal[
    "tool_call",
    "trivial",
    "simple_qa",
    "coding",
    "math_reasoning",
    "deep_analysis",
    "creative",
    "instruction",
    "complex_chat",
    "general",
]
Lang: TypeAlias = Literal["en", "zh-Hant", "zh-Hans"]
LABELS: tuple[Label, ...] = get_args(Label)
LANGS: tuple[Lang, ...] = get_args(Lang)
# Share of each language in every class, with a tolerance of 0.03: classes are small.
SHARES: dict[Lang, float] = {"en": 0.5, "zh-Hant": 0.3, "zh-Hans": 0.2}
# Two prompts whose three-letter pieces overlap more (Jaccard) are near copies; the set's closest pair has 0.42.
NEAR_COPY = 0.5
# Each script's own character set tells traditional from simplified; these are a Japanese word in a Taiwanese prompt,
# a quoted Japanese comment, and a name newer than GB 2312.
CHARSET = {"zh-Hant": "big5", "zh-Hans": "gb2312"}
OUTSIDE = frozenset("円税嬛")


class Function(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A function as a tool offers it."""

    name: str
    description: str
    parameters: dict[str, Any]


class Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of a request's `tools`."""

    type: Literal["function"]
    function: Function


class CalledFunction(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an assistant called; `arguments` is JSON text."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of an assistant's `tool_calls`."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One chat message; `content` is null only beside `tool_calls`."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class Item(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One labelled request."""

    id: str
    lang: Lang
    label: Label
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()

    def last(self) -> str:
        """The message that the label is about."""
        return self.messages[-1].content or ""

    def talk(self) -> str:
        """Everything said, system prompt excepted: those repeat in real traffic."""
        return "\n".join(message.content or "" for message in self.messages if message.role != "system")


def _read(split: str) -> list[Item]:
    lines = (FOLDER / f"prompts_{split}.jsonl").read_text("utf-8").splitlines()
    return [msgspec.json.decode(line, type=Item) for line in lines]


HALVES = {split: _read(split) for split in SPLITS}
ITEMS = [item for half in HALVES.values() for item in half]


def _normal(text: str) -> str:
    """Letters and digits alone, in one case and width; a prompt of signs only ("?") stays as it is."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return re.sub(r"[\W_]+", "", folded) or folded.strip()


def _pieces(text: str) -> frozenset[str]:
    normal = _normal(text)
    return frozenset(normal[at : at + 3] for at in range(max(1, len(normal) - 2)))


def test_there_are_enough_items_in_two_equal_halves() -> None:
    assert len(ITEMS) >= 480
    assert len(HALVES["dev"]) == len(HALVES["heldout"])
    assert all(count >= 40 for count in Counter(item.label for item in ITEMS).values())


@pytest.mark.parametrize("label", LABELS)
def test_a_class_has_the_same_share_and_languages_in_both_halves(label: Label) -> None:
    dev, held = (Counter(item.lang for item in HALVES[split] if item.label == label) for split in SPLITS)
    assert abs(dev.total() - held.total()) <= 2
    for lang in LANGS:
        assert abs(dev[lang] - held[lang]) <= 2
        assert (dev[lang] + held[lang]) / (dev + held).total() == pytest.approx(SHARES[lang], abs=0.03)


def test_ids_are_unique_and_say_language_and_class() -> None:
    assert len({item.id for item in ITEMS}) == len(ITEMS)
    for item in ITEMS:
        assert re.fullmatch(rf"{item.lang}-{item.label.replace('_', '-')}-\d{{3}}", item.id)


@pytest.mark.parametrize("text_of", [Item.last, Item.talk], ids=["last", "talk"])
def test_no_prompt_occurs_twice(text_of: Callable[[Item], str]) -> None:
    counts = Counter(_normal(text_of(item)) for item in ITEMS)
    assert [text for text, count in counts.items() if count > 1] == []


@pytest.mark.parametrize("text_of", [Item.last, Item.talk], ids=["last", "talk"])
def test_no_prompt_is_a_near_copy_of_another(text_of: Callable[[Item], str]) -> None:
    pieces = [(item.id, _pieces(text_of(item))) for item in ITEMS]
    close = [
        (one, two)
        for (one, left), (two, right) in itertools.combinations(pieces, 2)
        if len(left & right) > NEAR_COPY * len(left | right)
    ]
    assert close == []


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_a_request_has_a_valid_shape(item: Item) -> None:
    roles = [message.role for message in item.messages]
    talk = roles[1:] if roles[0] == "system" else roles
    spoken = [role for role in talk if role != "tool"]
    assert "system" not in talk
    assert talk[0] == talk[-1] == "user"
    assert item.last().strip()
    # Speakers take turns; a call and its result stand for the assistant's turn.
    assert spoken == (["user", "assistant"] * len(spoken))[: len(spoken)]
    for before, message in itertools.pairwise(item.messages):
        called = {call.id for call in before.tool_calls}
        assert (message.role == "tool") == bool(called)
        assert message.tool_call_id in (called or {""})
    names = {tool.function.name for tool in item.tools}
    for message in item.messages:
        assert bool(message.content) != bool(message.tool_calls)
        for call in message.tool_calls:
            assert call.function.name in names
            assert isinstance(json.loads(call.function.arguments), dict)
    assert len(names) == len(item.tools)
    for tool in item.tools:
        parameters = tool.function.parameters
        assert parameters["type"] == "object"
        assert set(parameters["required"]) <= set(parameters["properties"])


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_a_prompt_is_in_its_language(item: Item) -> None:
    han = [sign for message in item.messages for sign in message.content or "" if "\u4e00" <= sign <= "\u9fff"]
    assert bool(han) == (item.lang != "en")
    for sign in set(han) - OUTSIDE:
        assert sign.encode(CHARSET[item.lang])


@pytest.mark.parametrize("label", LABELS)
def test_no_class_is_given_away_by_the_shape_of_the_request(label: Label) -> None:
    mine = [item for item in ITEMS if item.label == label]
    turns = [sum(message.role == "user" for message in item.messages) for item in mine]
    assert any(item.tools for item in mine)
    assert any(not item.tools for item in mine)
    assert any(item.messages[0].role == "system" for item in mine)
    assert any(count > 1 for count in turns)
    assert label != "complex_chat" or min(turns) >= 3


def test_the_guide_defines_every_class_and_doubts_only_what_exists() -> None:
    guide = (FOLDER / "README.md").read_text("utf-8")
    defined = re.findall(r"^- \*\*`(\w+)`\*\*", guide, re.MULTILINE)
    assert sorted(defined) == sorted(LABELS)
    doubted = dict(re.findall(r"^\| `([\w-]+-\d{3})` \| `\w+` \| `(\w+)` \|", guide, re.MULTILINE))
    stated = dict(re.findall(r"^\| `([\w-]+-\d{3})` \| `(\w+)` \|", guide, re.MULTILINE))
    labels: dict[str, str] = {item.id: item.label for item in ITEMS}
    assert doubted
    assert stated == {doubt: labels[doubt] for doubt in doubted}
    assert all(other in LABELS and other != labels[doubt] for doubt, other in doubted.items())
