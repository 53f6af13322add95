"""What the router decides for a call: the models its key may use, the auto routers, where a conversation is at home."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.config import Auto, Config, Race
from gateway.config import Routing as RoutingConfig
from gateway.core.call import Call
from gateway.core.principal import Account, Principal
from gateway.dialects.openai_chat import parse_request
from gateway.dialects.prompt import Prompt
from gateway.errors import BadRequest, GatewayError, PermissionDenied
from gateway.exchange import Headers
from gateway.route.auto.lexical import LexicalClassifier
from gateway.route.auto.verdict import Classifier, Verdict
from gateway.route.catalog import Catalog
from gateway.route.health import FAILURES_TO_OPEN
from gateway.router import Course, Router
from tests.plans import MESSAGES, NOW, config, line, model, offer, provider, slugs

SOMEONE = Principal("key", Account("account"), "tester")


class Sorted:
    """A classifier that finds its class in the question."""

    def classify(self, prompt: Prompt) -> Verdict:
        return Verdict(prompt.text, ())


class Desk:
    """A router over one configuration, and the calls that come to it."""

    def __init__(self, settings: Config, classifier: Classifier | None = None) -> None:
        self.config = settings
        self.catalog = Catalog(settings)
        self.router = Router(settings, classifier or Sorted(), lambda: 0.5)
        self.call = self._new_call()

    def course(
        self,
        wishes: str = "{}",
        principal: Principal = SOMEONE,
        headers: Headers | None = None,
        prompt_tokens: int = 100,
    ) -> Course:
        body: dict[str, Any] = {"model": "x/m", "messages": MESSAGES} | json.loads(wishes)
        request = parse_request(json.dumps(body).encode())
        self.call = self._new_call()
        self.call.prompt_estimate = prompt_tokens
        return self.router.course(request, self.call, principal, headers or [], self.config, self.catalog)

    def told(self, wishes: str = "{}", principal: Principal = SOMEONE) -> str:
        try:
            return line(self.course(wishes, principal).placed)
        except GatewayError as error:
            return f"{error.status} {error.code}"

    @staticmethod
    def _new_call() -> Call:
        return Call("request", "gen", "test", NOW, 0.0)


MODELS = (
    model("m", offer("alpha", 1), offer("beta", 2), aliases=("y/m",)),
    model("n", offer("gamma", 1)),
    model("gift", offer("gamma", 1), offer("delta", 2), price="free", balance="order"),
    model("off", offer("absent", 1)),
)
AUTO = Auto(
    {"general": ("x/m", "x/n"), "coding": ("x/n", "x/off"), "creative": ("x/off",)},
    {"general": ("x/gift",)},
)
SETTINGS = config(MODELS, [provider("absent", enabled=False)], auto=AUTO)


def may_use(*models: str) -> Principal:
    return Principal("key", Account("account"), "tester", models=frozenset(models))


KEYS: list[tuple[str, tuple[str, ...], str]] = [
    ("{}", ("x/m",), "alpha:price beta:fallback"),
    ('{"model":"y/m"}', ("x/m",), "alpha:price beta:fallback"),
    ('{"model":"x/m:floor"}', ("x/m",), "alpha:sort:price beta:sort:price"),
    ('{"model":"x/n"}', ("x/m",), "403 model_denied"),
    ("{}", (), "403 model_denied"),
    ("{}", ("y/m",), "403 model_denied"),  # a key's models are ids
    # of several models those that are left, and none only when none is
    ('{"models":["x/n"]}', ("x/m",), "alpha:price beta:fallback"),
    ('{"models":["x/n"]}', ("x/n",), "gamma:only"),
    ('{"models":["x/n","x/gift"]}', ("x/n", "x/m"), "m@alpha:price m@beta:fallback n@gamma:only"),
    ('{"models":["x/n"]}', ("x/gift",), "403 model_denied"),
    ('{"model":"x/nobody","models":["x/n"]}', ("x/m",), "403 model_denied"),
    ('{"model":"x/nobody"}', ("x/m",), "404 model_not_found"),
    ('{"model":"nobody"}', ("x/m",), "400 invalid_request"),
    ('{"model":"auto"}', ("x/n",), "gamma:only"),
    ('{"model":"auto"}', ("x/gift",), "403 model_denied"),
    ('{"model":"auto:free"}', ("x/gift",), "gamma:listed delta:listed"),
    ('{"model":"auto:free"}', ("x/m",), "403 model_denied"),
]


@pytest.mark.parametrize(("wishes", "models", "expected"), KEYS)
def test_the_models_of_a_key(wishes: str, models: tuple[str, ...], expected: str) -> None:
    assert Desk(SETTINGS).told(wishes, may_use(*models)) == expected


def test_a_model_that_is_denied_is_named() -> None:
    with pytest.raises(PermissionDenied, match="this key may not use x/n") as told:
        Desk(SETTINGS).course('{"model":"x/n"}', may_use("x/m"))
    assert told.value.status == 403


def asking(name: str, question: str, **more: Any) -> str:
    return json.dumps({"model": name, "messages": [{"role": "user", "content": question}]} | more)


POOLED: list[tuple[str, str, str, str]] = [
    ("auto", "general", "m@alpha:price m@beta:fallback n@gamma:only", "x/m"),
    ("auto", "trivial", "m@alpha:price m@beta:fallback n@gamma:only", "x/m"),
    ("auto", "coding", "n@gamma:only m@alpha:price m@beta:fallback", "x/n"),
    ("auto", "creative", "m@alpha:price m@beta:fallback n@gamma:only", "x/m"),  # its pool is not served
]


@pytest.mark.parametrize(("name", "question", "expected", "first"), POOLED)
def test_the_auto_router(name: str, question: str, expected: str, first: str) -> None:
    desk = Desk(SETTINGS)
    course = desk.course(asking(name, question))
    assert line(course.placed) == expected
    assert desk.call.model == first
    assert course.verdict == (question, ())


AUTO_WISHES: list[tuple[str, dict[str, Any], str]] = [
    ("auto", {"models": ["x/gift"]}, "m@alpha:price m@beta:fallback n@gamma:only gift@gamma:listed gift@delta:listed"),
    ("auto", {"models": ["x/n", "x/nobody"]}, "m@alpha:price m@beta:fallback n@gamma:only"),
    ("auto", {"provider": {"only": ["gamma"]}}, "gamma:only"),
    ("auto", {"provider": {"sort": {"by": "price", "partition": "none"}}}, "m@alpha:sort:price n@gamma:sort:price m@beta:sort:price"),
    ("auto", {"provider": {"only": ["nobody"]}}, "404 constraint_filtered"),
    ("auto:free", {"provider": {"only": ["delta"]}}, "delta:only"),
    ("auto:free", {"provider": {"only": ["alpha"]}}, "404 constraint_filtered"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "wishes", "expected"), AUTO_WISHES)
def test_wishes_hold_for_the_auto_router(name: str, wishes: dict[str, Any], expected: str) -> None:
    assert Desk(SETTINGS).told(asking(name, "general", **wishes)) == expected


def test_auto_free_is_served_by_what_costs_the_customer_nothing() -> None:
    desk = Desk(SETTINGS)
    found = desk.course(asking("auto:free", "coding")).placed
    assert {each.attempt.model.price for each in found} == {"free"}
    assert desk.call.model == "x/gift"


@pytest.mark.parametrize("name", ["auto", "auto:free"])
def test_an_auto_router_that_nobody_has_filled_is_404(name: str) -> None:
    assert Desk(config(MODELS)).told(asking(name, "general")) == "404 model_not_found"


@pytest.mark.parametrize("messages", [[1], [{"role": 1}], [{"role": "user", "content": 5}], ["hi"]])
def test_the_auto_router_refuses_what_it_cannot_read(messages: list[Any]) -> None:
    with pytest.raises(BadRequest) as told:
        Desk(SETTINGS).course(json.dumps({"model": "auto", "messages": messages}))
    assert told.value.param == "messages"


def test_the_auto_router_serves_an_agent_whose_user_spoke_long_ago() -> None:
    calls = [
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "ok", "tool_call_id": "1"},
    ]
    messages = [{"role": "user", "content": "fix it"}, *(calls * 40)]
    assert (
        Desk(SETTINGS, LexicalClassifier()).told(json.dumps({"model": "auto", "messages": messages})).startswith("m@")
    )


def test_the_shipped_classifier_decides_the_same_each_time() -> None:
    question = asking("auto", "Write a Python function that sorts a list, with tests.")
    verdicts = [Desk(SETTINGS, LexicalClassifier()).course(question).verdict for _ in range(2)]
    assert verdicts[0] == verdicts[1]
    assert verdicts[0] is not None
    assert verdicts[0].name == "coding"


# --- where a conversation is at home

NAMED: list[tuple[str, Headers]] = [
    ('{"session_id":"s"}', []),
    ("{}", [(b"x-session-id", b"s")]),
    ('{"prompt_cache_key":"s"}', []),
    ("{}", []),
]


@pytest.mark.parametrize(("wishes", "headers"), NAMED)
def test_a_conversation_goes_where_it_went(wishes: str, headers: Headers) -> None:
    desk = Desk(SETTINGS)
    first = desk.course(wishes, headers=headers)
    assert slugs(first.placed) == ["alpha", "beta"]
    assert first.conversation is not None
    desk.router.affinity.put(first.conversation, first.placed[1].attempt.target, NOW)
    again = desk.course(wishes, headers=headers)
    assert again.conversation == first.conversation
    assert line(again.placed) == "beta:affinity alpha:price"
    other = desk.course(wishes, Principal("key", Account("other"), "tester"), headers)
    assert other.conversation != first.conversation
    assert slugs(other.placed) == ["alpha", "beta"]


HOMELESS: list[tuple[str, Config]] = [
    ('{"session_id":"s","provider":{"order":["beta"]}}', SETTINGS),  # the request says itself where to go
    ('{"session_id":"s","model":"x/n"}', SETTINGS),  # there is but one place
    ('{"session_id":"s"}', config(MODELS, routing=RoutingConfig(affinity_s=0))),
]


@pytest.mark.parametrize(("wishes", "settings"), HOMELESS)
def test_where_no_place_is_remembered(wishes: str, settings: Config) -> None:
    assert Desk(settings).course(wishes).conversation is None


def test_the_keys_of_one_provider_are_places() -> None:
    desk = Desk(config([model("n", offer("gamma", 1))], [provider("gamma", 3)]))
    first = desk.course('{"model":"x/n","session_id":"s"}')
    assert first.conversation is not None
    desk.router.affinity.put(first.conversation, first.placed[2].attempt.target, NOW)
    assert slugs(desk.course('{"model":"x/n","session_id":"s"}').placed) == ["gamma#2", "gamma", "gamma#1"]


# --- how many are tried


def test_no_more_are_tried_than_the_operator_allows() -> None:
    desk = Desk(config([model("m", *(offer(name, 1) for name in "abcdefgh"))], race=Race(attempts_max=3)))
    assert len(desk.course().placed) == 3


def test_many_keys_of_one_provider_leave_room_for_the_next() -> None:
    desk = Desk(config([model("m", offer("alpha", 1), offer("beta", 2))], [provider("alpha", 8)]))
    assert {each.attempt.provider for each in desk.course().placed} == {"alpha", "beta"}


def test_a_model_with_one_attempt_is_planned_like_any_other() -> None:
    """The short way is taken only when the long one would come to the same."""
    desk = Desk(SETTINGS)
    for wishes in ('{"model":"x/n"}', '{"model":"x/n","stream":true}', '{"model":"x/n","provider":{"sort":"price"}}'):
        assert slugs(desk.course(wishes).placed) == ["gamma"]
        assert desk.call.model == "x/n"
    assert slugs(desk.course('{"model":"x/n"}', prompt_tokens=16_000).placed) == ["gamma"]
    with pytest.raises(BadRequest, match="about 16001 tokens"):
        desk.course('{"model":"x/n"}', prompt_tokens=16_001)
    target = desk.catalog.find("x/n").attempts[0].target
    for _ in range(FAILURES_TO_OPEN):
        desk.router.health.failed(target, NOW, probe=False)
    assert desk.told('{"model":"x/n"}') == "503 upstream_error"
    assert desk.told('{"model":"x/n"}', may_use("x/m")) == "403 model_denied"
