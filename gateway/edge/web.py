"""The Quart-Trio app: everything that is not inference. Inference requests are dispatched to the pipeline before
Quart builds a Request of them.
"""

from __future__ import annotations

import secrets
from ipaddress import ip_address
from typing import Any, Protocol

import orjson
import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from gateway.api import add_api
from gateway.api.books import ApiControl
from gateway.api.endpoints import endpoints_of, pricing
from gateway.api.session import View, answer, session_of
from gateway.core.ids import request_id
from gateway.edge.asgi import is_inference, serve_asgi
from gateway.edge.lanes import Edge
from gateway.edge.replies import error_reply
from gateway.errors import (
    BadRequest,
    GatewayError,
    Internal,
    MethodNotAllowed,
    ModelNotFound,
    NotFound,
    PayloadTooLarge,
    RequestTimeout,
)
from gateway.route.catalog import Entry
from gateway.router import Router
from gateway.settle.charge import customer_price

CONTROL_BODY_BYTES_MAX = 64 * 1024
CONTROL_BODY_S = 10


class Control(ApiControl, Protocol):
    """What the control plane reads of the process."""

    @property
    def router(self) -> Router:
        """What routing remembers: breakers, measurements, budgets."""

    @property
    def metrics_token(self) -> str | None:
        """Who may read metrics from elsewhere than loopback."""

    def ready(self) -> str | None:
        """None when calls can be served, else why not."""

    def metrics(self) -> bytes:
        """The exposition text."""


class WebApp(QuartTrio):
    """Quart, with the inference routes in front of it."""

    edge: Edge

    async def asgi_app(self, scope: Any, receive: Any, send: Any) -> None:
        """Dispatch one ASGI connection."""
        if is_inference(scope):
            await serve_asgi(self.edge, scope, receive, send)
        else:
            await super().asgi_app(scope, receive, send)


def build_web(edge: Edge, control: Control) -> WebApp:
    """The app with its routes."""
    app = WebApp("gateway", static_folder=None, template_folder=None)
    app.edge = edge
    app.config["MAX_CONTENT_LENGTH"] = CONTROL_BODY_BYTES_MAX
    app.config["BODY_TIMEOUT"] = CONTROL_BODY_S
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.before_request(_begin)
    app.after_request(_add_ids)
    app.register_error_handler(GatewayError, _render)
    app.register_error_handler(HTTPException, _render_http)
    app.register_error_handler(Exception, _render_bug)
    _add_models(app, control)
    _add_state(app, control)
    add_api(app, control)
    return app


def _add_models(app: WebApp, control: Control) -> None:
    async def list_models() -> Response:
        return _json({"object": "list", "data": [_model(entry) for entry in control.catalog.listed()]})

    async def one_model(name: str) -> Response:
        return _json(_model(listed(name)))

    async def endpoints(name: str) -> Response:
        whole = control.catalog.get_listed(f"{name}/endpoints")  # an id or alias may end so
        if whole is not None:
            return _json(_model(whole))
        return answer({"data": endpoints_of(listed(name), control.router, trio.current_time())})

    def listed(name: str) -> Entry:
        entry = control.catalog.get_listed(name)
        if entry is None:
            raise ModelNotFound(f"model {name[:80]!r} is not in the catalogue; GET /v1/models lists what is")
        return entry

    def keyed(view: View) -> View:
        async def checked(**values: str) -> Response:
            session_of(control)
            return await view(**values)

        return checked

    for path, what, view in (
        ("/models", "models", list_models),
        ("/models/<path:name>", "model", one_model),
        ("/models/<path:name>/endpoints", "endpoints", endpoints),
    ):
        app.add_url_rule(f"/api/v1{path}", f"public_{what}", view, methods=["GET"])
        app.add_url_rule(f"/v1{path}", what, keyed(view), methods=["GET"])


def _add_state(app: WebApp, control: Control) -> None:
    async def health() -> Response:
        return _json({"status": "ok"})

    async def ready() -> Response:
        why = control.ready()
        return _json({"status": "ok"}) if why is None else _json({"status": "not_ready", "reason": why}, 503)

    async def metrics() -> Response:
        if not _may_read_metrics(control.metrics_token):
            raise NotFound("GET /metrics is served to loopback, or with the bearer token server.metrics_token")
        return Response(control.metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")

    app.add_url_rule("/health", "health", health, methods=["GET"])
    app.add_url_rule("/ready", "ready", ready, methods=["GET"])
    app.add_url_rule("/metrics", "metrics", metrics, methods=["GET"])


def _may_read_metrics(token: str | None) -> bool:
    if token is not None:
        return secrets.compare_digest(request.headers.get("authorization", "").encode(), f"Bearer {token}".encode())
    try:
        return ip_address(request.remote_addr or "").is_loopback and "x-forwarded-for" not in request.headers
    except ValueError:
        return False


def _model(entry: Entry) -> dict[str, object]:
    """OpenAI's model object, with the context window (ApiLink's name and OpenRouter's) and OpenRouter's pricing."""
    model = entry.model
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "name": model.name or model.id,
        "description": model.description,
        "context_window": model.context_window,
        "context_length": model.context_window,
        "pricing": pricing(customer_price(model, entry.attempts[0].offer)),
    }


def _json(value: object, status: int = 200) -> Response:
    return Response(orjson.dumps(value), status, content_type="application/json")


async def _begin() -> None:
    g.request_id = request_id()


async def _add_ids(response: Response) -> Response:
    minted = g.get("request_id") or request_id()
    response.headers["x-request-id"] = response.headers["request-id"] = minted
    return response


async def _render(error: GatewayError) -> Response:
    status, headers, body = error_reply(error, g.get("request_id") or request_id())
    response = Response(body, status)
    for name, value in headers:
        response.headers[name.decode()] = value.decode()
    return response


async def _render_http(error: HTTPException) -> Response:
    return await _render(_of_http(error))


def _of_http(error: HTTPException) -> GatewayError:
    allow = ", ".join(sorted(getattr(error, "valid_methods", None) or ()))
    match error.code:
        case 404:
            return NotFound(f"{request.method} {request.path[:200]} is not served; see the README for the routes")
        case 405:
            return MethodNotAllowed(f"{request.method} is not served here; send {allow}", allow=allow)
        case 408:
            return RequestTimeout("the request body did not arrive in time")
        case 413:
            return PayloadTooLarge(f"the body is over {CONTROL_BODY_BYTES_MAX} bytes")
        case code if code is not None and code < 500:
            return BadRequest("the request could not be read; check its path, headers and body")
    return Internal("the gateway failed; report the request id")


async def _render_bug(error: Exception) -> Response:
    import structlog

    structlog.get_logger().error("view_failed", request_id=g.get("request_id"), exc_info=error)
    return await _render(Internal("the gateway failed; report the request id"))
