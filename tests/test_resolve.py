"""From the names in a request to models: ids, aliases, suffixes, fallback models, and the auto routers' pools."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.config import AUTO_CLASSES, Auto
from gateway.core.routing import PLAIN, Preferences, Routing
from gateway.errors import BadRequest, ModelNotFound
from gateway.route.resolve import AUTO, AUTO_FREE, Choice, known, pool, resolve
from tests.plans import catalog, model, offer, provider

CATALOG = catalog(
    model("m", offer("a", 1), aliases=("m", "y/m", "m:floor")),
    model("n", offer("a", 2), aliases=("n-latest",)),
    model("odd:free", offer("a", 3)),
    model("off", offer("absent", 1)),
    providers=[provider("absent", enabled=False)],
)


def shown(choices: list[Choice]) -> str:
    """The models' slugs in order, with a `$` before those that only what costs nothing may serve."""
    return " ".join(f"{'$' if free else ''}{entry.model.id.removeprefix('x/')}" for entry, free in choices)


NAMED: list[tuple[str, tuple[str, ...], str]] = [
    ("x/m", (), "m"),
    ("m", (), "m"),
    ("y/m", (), "m"),
    ("n-latest", (), "n"),
    ("x/off", (), "off"),
    # suffixes; the whole name counts first
    ("x/m:free", (), "$m"),
    ("y/m:free", (), "$m"),
    ("n-latest:free", (), "$n"),
    ("x/m:nitro", (), "m"),
    ("m:floor", (), "m"),
    ("x/odd:free", (), "odd:free"),
    ("x/odd:free:free", (), "$odd:free"),
    # fallback models: those that nobody knows are left out, none comes twice, whatever it is called
    ("x/m", ("x/n",), "m n"),
    ("x/m", ("x/n", "x/odd:free"), "m n odd:free"),
    ("x/m", ("x/nobody", "bare", "", "auto", "x/n"), "m n"),
    ("x/m", ("x/n:nitro", "x/m"), "m n"),
    ("x/m", ("y/m",), "m"),
    ("x/m", ("m:floor", "y/m:floor"), "m"),
    ("x/m", ("x/n", "n-latest"), "m n"),
    ("x/nobody", ("x/n", "n-latest", "x/n:floor"), "n"),
    ("x/nobody", ("x/n:free",), "$n"),
    ("bare", ("x/m",), "m"),
    ("x/m:free", ("x/n:free", "n-latest:free"), "$m $n"),
    ("x/m:free", ("x/n",), "$m n"),
]


@pytest.mark.parametrize(("name", "models", "expected"), NAMED)
def test_names(name: str, models: tuple[str, ...], expected: str) -> None:
    assert shown(resolve(name, Routing(models), CATALOG)[0]) == expected


def test_a_paid_model_may_follow_its_own_free_offers() -> None:
    """First what costs nothing, then the same model from whoever has it."""
    assert shown(resolve("x/m:free", Routing(("x/m",)), CATALOG)[0]) == "$m m"


UNKNOWN: list[tuple[str, type[Exception], str]] = [
    ("bare", BadRequest, "`model` 'bare' has no provider prefix"),
    ("bare:free", BadRequest, "`model` 'bare:free' has no provider prefix"),
    ("", BadRequest, "`model` '' has no provider prefix"),
    (":free", BadRequest, "`model` ':free' has no provider prefix"),
    ("auto:nitro", BadRequest, "`model` 'auto:nitro' has no provider prefix"),
    ("x/nobody", ModelNotFound, "model 'x/nobody' is not in the catalogue"),
    ("X/M", ModelNotFound, "model 'X/M' is not in the catalogue"),
    ("x/m:thinking", ModelNotFound, "model 'x/m:thinking' is not in the catalogue"),
    ("x/m:nitro:nitro", ModelNotFound, "model 'x/m:nitro:nitro' is not in the catalogue"),
    ("x/m:FREE", ModelNotFound, "model 'x/m:FREE' is not in the catalogue"),
    ("x/" + "n" * 500, ModelNotFound, f"model 'x/{'n' * 78}' is not in the catalogue"),
]


@pytest.mark.parametrize(("name", "error", "message"), UNKNOWN)
@pytest.mark.parametrize("models", [(), ("x/nobody", "bare")])
def test_unknown_names(name: str, error: type[Exception], message: str, models: tuple[str, ...]) -> None:
    with pytest.raises(error) as told:
        resolve(name, Routing(models), CATALOG)
    assert type(told.value) is error
    assert str(told.value).startswith(message)
    assert getattr(told.value, "param", None) == "model"


SORTS: list[tuple[str, Preferences, str | None]] = [
    ("x/m", Preferences(), None),
    ("x/m:nitro", Preferences(), "throughput"),
    ("y/m:floor", Preferences(), "price"),
    ("m:floor", Preferences(), None),  # an alias of that name
    ("x/m:free", Preferences(), None),
    ("x/m:nitro", Preferences(sort="latency"), "latency"),
    ("x/nobody:nitro", Preferences(), None),
]


@pytest.mark.parametrize(("name", "preferences", "sort"), SORTS)
def test_what_a_suffix_sorts_by(name: str, preferences: Preferences, sort: str | None) -> None:
    wishes = Routing(("x/n:floor",), preferences, session_id="s")
    found, routing = resolve(name, wishes, CATALOG)
    assert found
    assert routing.preferences.sort == sort
    assert (routing.models, routing.session_id) == (wishes.models, "s")


def test_a_request_without_wishes_stays_one() -> None:
    """By identity: what a request without wishes needs is not even looked at."""
    for name in ("x/m", "m", "x/m:free"):
        assert resolve(name, PLAIN, CATALOG)[1] is PLAIN


def test_known_models_are_told_in_the_order_they_are_named() -> None:
    assert shown(known(["n-latest", "x/nobody", "x/m:free"], CATALOG)) == "n $m"
    assert known([], CATALOG) == []


NAMES = ("x/m", "y/m", "m", "n-latest", "x/n", "x/odd:free", "x/off", "x/nobody", "bare", "auto", "auto:free", "", "/")
ANY_NAME = st.builds(
    lambda base, suffix: base + suffix,
    st.sampled_from(NAMES) | st.text(max_size=8),
    st.sampled_from(["", "", ":free", ":nitro", ":floor", ":", ":free:free", ":\ud800"]),
)


@given(ANY_NAME, st.lists(ANY_NAME, max_size=6))
@example("\ud800/x", [])
@example("x/nobody", ["x/m", "y/m"])
def test_any_names(name: str, models: list[str]) -> None:
    try:
        found, routing = resolve(name, Routing(tuple(models)), CATALOG)
    except (BadRequest, ModelNotFound):
        assert not known([name, *models], CATALOG)
        return
    asked = [(choice.entry.model.id, choice.free) for choice in found]
    assert len(asked) == len(set(asked))
    assert set(asked) == {(choice.entry.model.id, choice.free) for choice in known([name, *models], CATALOG)}
    assert routing.preferences.sort is None or name.endswith((":nitro", ":floor"))


# --- the auto routers

POOLS = {"general": ("x/m", "x/n"), "coding": ("x/n",), "trivial": ("x/odd:free", "x/m")}
FREE_POOLS = {"general": ("x/n",), "coding": ("x/m", "x/n")}
BOTH = Auto(POOLS, FREE_POOLS)

POOLED: list[tuple[str, str, str]] = [
    ("auto", "general", "m n"),
    ("auto", "coding", "n m"),
    ("auto", "trivial", "odd:free m n"),
    ("auto", "creative", "m n"),
    ("auto:free", "general", "$n"),
    ("auto:free", "coding", "$m $n"),
    ("auto:free", "trivial", "$n"),
]


@pytest.mark.parametrize(("name", "class_name", "expected"), POOLED)
def test_pools(name: str, class_name: str, expected: str) -> None:
    """The class's own pool, then the general one."""
    assert shown(pool(name, BOTH, class_name, CATALOG)) == expected


@pytest.mark.parametrize("class_name", AUTO_CLASSES)
def test_every_class_has_a_pool(class_name: str) -> None:
    for name in AUTO:
        found = pool(name, BOTH, class_name, CATALOG)
        assert found
        assert {choice.free for choice in found} == {name == AUTO_FREE}


@pytest.mark.parametrize(
    ("name", "auto", "table"),
    [("auto", Auto(free_pools=FREE_POOLS), "[auto.pools]"), ("auto:free", Auto(POOLS), "[auto.free_pools]")],
)
def test_a_router_without_pools_is_not_served(name: str, auto: Auto, table: str) -> None:
    with pytest.raises(ModelNotFound) as told:
        pool(name, auto, "general", CATALOG)
    assert table in str(told.value)
    assert told.value.param == "model"


# --- the catalogue


def test_the_catalogue_lists_what_is_served() -> None:
    assert [entry.model.id for entry in CATALOG.listed()] == ["x/m", "x/n", "x/odd:free"]
    assert CATALOG.get("y/m") is CATALOG.get("x/m") is CATALOG.find("m")
    assert CATALOG.get_listed("n-latest") is CATALOG.get("x/n")
    assert CATALOG.get_listed("x/off") is None
    assert CATALOG.get("x/nobody") is None


def test_an_entry_has_each_offer_under_each_key() -> None:
    known_here = catalog(
        model("m", offer("a", 1), offer("b", 2, tag="east"), offer("c", 3), offer("d", 4)),
        providers=[provider("a", 2), provider("b", 3), provider("c", enabled=False), provider("d", 0)],
    )
    attempts = known_here.find("x/m").attempts
    assert [(each.slug, each.key_index, each.api_key) for each in attempts] == [
        ("a", 0, "sk-a-0"),
        ("a", 1, "sk-a-1"),
        ("b/east", 0, "sk-b-0"),
        ("b/east", 1, "sk-b-1"),
        ("b/east", 2, "sk-b-2"),
        ("d", 0, ""),
    ]
    assert attempts[3].target == ("b", "up-east", 1)
    assert attempts[3].endpoint == ("b", "up-east")


def test_no_attempt_tells_its_key_when_it_is_printed() -> None:
    assert "sk-a-0" not in repr(CATALOG.find("x/m").attempts)


def test_an_entry_is_alone_when_there_is_nothing_to_choose() -> None:
    limited = offer("a", 1, supports=frozenset({"stream"}))
    assert catalog(model("m", offer("a", 1)), providers=[provider("a", 3)]).find("x/m").alone
    assert not catalog(model("m", offer("a", 1), offer("b", 1))).find("x/m").alone
    assert not catalog(model("m", limited)).find("x/m").alone
    assert catalog(model("m", limited, offer("b", 1)), providers=[provider("a", enabled=False)]).find("x/m").alone
