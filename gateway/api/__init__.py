"""The account API: keys, credits, usage and generations, the same under `/api/v1` and `/v1`.

Invariants: every route asks `session.Gate` who calls before it reads anything of the request; every object is looked
for in the caller's account only, so that another account's id is answered as one that does not exist; amounts are
rendered from integers. Paths and fields are OpenRouter's (its API reference, August 2026), and BazaarLink's beside.
"""

from __future__ import annotations

from quart import Quart

from gateway.api.account import AccountViews
from gateway.api.books import ApiControl
from gateway.api.generation import GenerationViews
from gateway.api.keys import KeyViews
from gateway.api.session import Gate, View

PREFIXES = ("/api/v1", "/v1")


def add_api(app: Quart, control: ApiControl) -> None:
    """Add the routes. Reads nothing of `control` before the first request."""
    gate = Gate(control)
    for prefix in PREFIXES:
        for method, path, view in _routes(control, gate):
            app.add_url_rule(prefix + path, f"{method} {prefix}{path}", view, methods=[method])


def _routes(control: ApiControl, gate: Gate) -> list[tuple[str, str, View]]:
    keys, account, generation = KeyViews(control), AccountViews(control), GenerationViews(control)
    return [
        ("GET", "/keys", gate.manager(keys.page)),
        ("POST", "/keys", gate.manager(keys.create)),
        ("GET", "/keys/<key_id>", gate.manager(keys.show)),
        ("PATCH", "/keys/<key_id>", gate.manager(keys.change)),
        ("DELETE", "/keys/<key_id>", gate.manager(keys.revoke)),
        ("GET", "/key", gate.anyone(account.key)),
        ("GET", "/auth/key", gate.anyone(account.key)),
        ("GET", "/credits", gate.anyone(account.credits)),
        ("GET", "/usage", gate.anyone(account.usage)),
        ("GET", "/generation", gate.anyone(generation.show)),
    ]
