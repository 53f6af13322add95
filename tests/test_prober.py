"""Active probing: whom it asks, what it believes, and that it is off as shipped."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
import trio

from gateway.config import Routing
from gateway.prober import Prober
from tests.exchanges import World, build_pipeline
from tests.upstream import HANG, Close, Script, Send, script, whole

PROBING = Routing(affinity_s=0, probe_every_s=2.0)
MODELS = Send(whole(b'{"data": []}'))


def prober(world: World) -> Prober:
    return Prober(world.health, world.pool, lambda: world.pipeline.snapshot)


def states(world: World) -> dict[str, str]:
    return {target[0]: state for target, state in world.health.states(trio.current_time()).items()}


async def rest(world: World, retry_after_s: float | None = None) -> None:
    """Open the breaker of provider `a` for 120 s, or for as long as it says."""
    target = ("a", "up-model", 0)
    for _ in range(20):
        world.health.failed(target, trio.current_time(), probe=True, retry_after_s=retry_after_s)
    assert states(world)["a"] == "open"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (script(MODELS), "half_open"),
        (script(Send(whole(b"{}", 500))), "open"),
        (script(Send(whole(b"{}", 401))), "open"),
        (script(HANG), "open"),
        (script(Close()), "open"),
        (script(Send(b"nonsense\r\n\r\n")), "open"),
    ],
    ids=["well", "500", "dead-key", "silent", "closed", "nonsense"],
)
async def test_what_a_probe_is_believed(
    answer: Script, state: str, nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [answer]}, routing=PROBING)
    await rest(world)
    nursery.start_soon(prober(world).run)
    await trio.sleep(8.5)
    assert states(world)["a"] == state
    assert not world.upstream.open()


async def test_a_rest_the_provider_asked_for_is_kept(nursery: trio.Nursery, autojump_clock: object) -> None:
    world = await build_pipeline(nursery, {"a": [script(MODELS)]}, routing=PROBING)
    await rest(world, retry_after_s=60)
    nursery.start_soon(prober(world).run)
    await trio.sleep(59)
    assert states(world)["a"] == "open"
    await trio.sleep(2)
    assert states(world)["a"] == "half_open"


async def test_only_those_that_rest_are_asked_and_nobody_as_shipped(
    nursery: trio.Nursery, autojump_clock: object
) -> None:
    world = await build_pipeline(nursery, {"a": [script(MODELS)], "b": [script(MODELS)]})
    await rest(world)
    nursery.start_soon(prober(world).run)
    await trio.sleep(20)
    assert world.upstream.times() == []
    snapshot = world.pipeline.snapshot
    config = msgspec.structs.replace(snapshot.config, routing=PROBING)  # as a reload does it
    world.pipeline.snapshot = dataclasses.replace(snapshot, config=config)
    await trio.sleep(50)
    assert {name for name, _ in world.upstream.times()} == {"a"}
