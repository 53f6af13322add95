"""The parity table: requests that every protocol can carry. Good ones, bad ones and hostile ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gateway.edge.head import HEADER_LINES_MAX
from tests.parity_faults import FAULT_ROWS
from tests.parity_row import (
    AUTH,
    CHAT,
    ECHO,
    JSON_TYPE,
    MESSAGES,
    REVOKED,
    Row,
    at,
    bad,
    bad_field,
    chat,
    dumps,
    raw,
    with_headers,
)
from tests.wire import Ask

BODY_BYTES_MAX = 2_000_000  # of the gateways under test
STREAM: dict[str, object] = {"stream": True}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {"a": {}}}}}
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "it", "strict": True, "schema": SCHEMA}}
HI = chat("hi")
HI_BODY = HI.ask.body or b""


def good_rows() -> list[Row]:
    """Calls that are answered."""
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    parts = [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}]
    talk = [{"role": "system", "content": "Be brief."}, *MESSAGES, {"role": "assistant", "content": "Yes?"}, *MESSAGES]
    unicode = [{"role": "user", "content": "naïve 東京 👩\u200d🚀 \u2028 \u202e \x7f"}]
    return [
        chat("good-whole", contains=(b'"Hi there"', b'"model":"sim/echo"', b'"usage"')),
        chat("good-stream", STREAM, done=True, contains=(b'"model":"sim/echo"',), lacks=(b'"usage"',)),
        chat("good-stream-usage", usage, done=True, contains=(b'"usage":{"prompt_tokens"',)),
        chat("good-stream-usage-false", usage | {"stream_options": {"include_usage": False}}, done=True,
            lacks=(b'"usage"',)),
        chat("good-stream-options-null", usage | {"stream_options": None}, done=True, lacks=(b'"usage"',)),
        chat("good-stream-options-empty", usage | {"stream_options": {}}, done=True, lacks=(b'"usage"',)),
        chat("good-stream-null", {"stream": None}, contains=(b'"chat.completion"',)),
        chat("good-words", {"model": "sim/words"}, contains=(b'"model":"sim/words"',)),
        chat("good-words-stream", {"model": "sim/words", "stream": True}, done=True),
        chat("good-tools", {"tools": [TOOL], "tool_choice": "required"}, contains=(b'"tool_calls"', b'"look"')),
        chat("good-tools-stream", {"tools": [TOOL], "tool_choice": "required", "stream": True}, done=True,
             contains=(b'"tool_calls"',)),
        chat("good-tools-auto", {"tools": [TOOL], "tool_choice": "auto"}, lacks=(b'"tool_calls"',)),
        chat("good-schema", {"response_format": FORMAT, "model": "sim/words"}, contains=(b'\\"n\\":',)),
        chat("good-schema-stream", {"response_format": FORMAT, "model": "sim/words", "stream": True}, done=True),
        chat("good-json-object", {"response_format": {"type": "json_object"}, "model": "sim/words"}),
        chat("good-n-2", {"n": 2}, contains=(b'"index":1',)),
        chat("good-n-2-stream", {"n": 2, "stream": True}, done=True, contains=(b'"index":1',)),
        chat("good-alias", {"model": "echo-alias"}, contains=(b'"model":"sim/echo"',)),
        chat("good-alias-stream", {"model": "echo-alias", "stream": True}, done=True,
            contains=(b'"model":"sim/echo"',)),
        chat("good-stop", {"stop": " there"}, lacks=(b'Hi there"',)),
        chat("good-max-tokens", {"model": "sim/words", "max_tokens": 2}, contains=(b'"finish_reason":"length"',)),
        chat("good-max-completion-tokens", {"model": "sim/words", "max_completion_tokens": 2},
             contains=(b'"finish_reason":"length"',)),
        chat("good-temperature", {"temperature": 0.5, "top_p": 1, "seed": -1}),
        chat("good-null-fields", dict.fromkeys(("stream", "max_tokens", "n", "tools", "stop", "seed", "user", "x")),
             contains=(b"Hi there",)),
        chat("good-unknown-fields", {"x-unknown": {"deep": [1, {"model": "not/this"}]}, "provider": {}, "": 0}),
        chat("good-parts", {"messages": parts}, contains=(b"one two",)),
        chat("good-talk", {"messages": talk}),
        chat("good-unicode", {"messages": unicode}, contains=("naïve 東京 👩\u200d🚀".encode(),)),
        chat("good-unicode-stream", {"messages": unicode, "stream": True}, done=True, contains=("東京".encode(),)),
        chat("good-quoted", {"messages": [{"role": "user", "content": 'data: [DONE]\n\n"model":"x"'}], "stream": True},
             done=True),
        at(HI, "good-api-mount", path="/api" + CHAT, contains=(b"Hi there",)),
        at(chat("s", STREAM), "good-api-mount-stream", path="/api" + CHAT, done=True),
        at(HI, "good-query", path=CHAT + "?api-version=1&x=%2F%00", contains=(b"Hi there",)),
        at(HI, "good-query-empty", path=CHAT + "?", contains=(b"Hi there",)),
        raw("good-escaped-model", HI_BODY.replace(b"sim/echo", b"sim\\/\\u0065cho"), 200, contains=(b'"sim/echo"',)),
        raw("good-white-space", b" \r\n\t" + HI_BODY.replace(b": ", b" \n:\t ") + b"\n ", 200, contains=(b"Hi there",)),
        raw("good-model-twice", HI_BODY.replace(b"{", b'{"model": "not/this", ', 1), 200, contains=(b"Hi there",)),
        raw("good-big-number", HI_BODY.replace(b"{", b'{"x": 123456789012345678901234567890.5e-400, ', 1), 200),
        *_framing_rows(),
        *_header_rows(),
    ]  # fmt: skip


def _framing_rows() -> list[Row]:
    """The same body in other pieces, and a large one."""
    large = chat("good-1-mb", {"messages": [{"role": "user", "content": "x" * 1_000_000}]}, contains=(b"x" * 1000,))
    whole = HI.ask
    in_pieces = replace(HI, name="good-chunked", ask=replace(whole, body=None, pieces=(HI_BODY[:10], HI_BODY[10:])))
    bytewise = tuple(HI_BODY[at : at + 1] for at in range(len(HI_BODY)))
    body = large.ask.body or b""
    in_64k = tuple(body[at : at + 65_536] for at in range(0, len(body), 65_536))
    return [
        large,
        replace(large, name="good-1-mb-chunked", ask=replace(large.ask, body=None, pieces=in_64k)),
        in_pieces,
        replace(in_pieces, name="good-chunked-one", ask=replace(whole, body=None, pieces=(HI_BODY,))),
        replace(in_pieces, name="good-chunked-bytewise", ask=replace(whole, body=None, pieces=bytewise)),
    ]


def _header_rows() -> list[Row]:
    """Headers that must not change the answer, up to the limits."""
    lines = tuple((b"x-%d" % number, b"v") for number in range(HEADER_LINES_MAX - 8))
    return [
        with_headers(HI, "head-no-content-type", AUTH),
        with_headers(HI, "head-odd-content-type", AUTH, (b"content-type", b"text/plain; charset=utf-16")),
        with_headers(HI, "head-multipart-content-type", AUTH, (b"content-type", b"multipart/form-data")),
        with_headers(HI, "head-accept-html", AUTH, JSON_TYPE, (b"accept", b"text/html;q=1, */*;q=0")),
        with_headers(chat("s", STREAM), "head-accept-json-stream", AUTH, (b"accept", b"application/json"), done=True),
        with_headers(HI, "head-accept-encoding", AUTH, (b"accept-encoding", b"gzip, br")),
        with_headers(HI, "head-request-id", AUTH, (b"x-request-id", b"client-chosen")),
        with_headers(HI, "head-empty-value", AUTH, (b"x-empty", b"")),
        with_headers(HI, "head-latin-1", AUTH, (b"x-name", b"caf\xe9 \xff")),
        with_headers(HI, "head-many-lines", AUTH, *lines),
        with_headers(HI, "head-60-kb", AUTH, (b"x-long", b"v" * 50_000)),
        with_headers(HI, "head-cookies", AUTH, (b"cookie", b"a=1"), (b"cookie", b"b=2")),
        with_headers(HI, "head-range", AUTH, (b"range", b"bytes=0-1"), (b"if-none-match", b"*")),
        with_headers(HI, "head-origin", AUTH, (b"origin", b"https://example.com")),
        with_headers(HI, "head-forwarded", AUTH, (b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-host", b"e.vil")),
        with_headers(HI, "head-override", AUTH, (b"x-http-method-override", b"DELETE")),
    ]  # fmt: skip


def auth_rows() -> list[Row]:
    """Keys in all their places."""
    right = b"{key}"
    no: dict[str, Any] = {"status": 401, "code": "invalid_api_key", "header": (("www-authenticate", "Bearer"),)}
    wrong = b"sk-gw-v1-" + b"0" * 40

    def none(name: str, *headers: tuple[bytes, bytes]) -> Row:
        return with_headers(HI, name, *headers, **no)

    return [
        with_headers(HI, "auth-lower-scheme", (b"authorization", b"bearer " + right)),
        with_headers(HI, "auth-upper-scheme", (b"authorization", b"BEARER " + right)),
        with_headers(HI, "auth-two-spaces", (b"authorization", b"Bearer  " + right)),
        with_headers(HI, "auth-x-api-key", (b"x-api-key", right)),
        with_headers(HI, "auth-api-key", (b"api-key", right)),
        with_headers(HI, "auth-both-same", AUTH, (b"x-api-key", right)),
        with_headers(HI, "auth-twice-same", AUTH, AUTH),
        with_headers(HI, "auth-basic-and-x-api-key", (b"authorization", b"Basic eDp5"), (b"x-api-key", right)),
        none("auth-none"),
        none("auth-wrong", (b"authorization", b"Bearer " + wrong)),
        none("auth-wrong-x-api-key", (b"x-api-key", wrong)),
        none("auth-both-different", AUTH, (b"x-api-key", wrong)),
        none("auth-twice-different", AUTH, (b"authorization", b"Bearer " + wrong)),
        none("auth-revoked", (b"authorization", b"Bearer " + REVOKED)),
        none("auth-empty", (b"authorization", b"")),
        none("auth-scheme-only", (b"authorization", b"Bearer")),
        none("auth-no-scheme", (b"authorization", right)),
        none("auth-basic", (b"authorization", b"Basic eDp5")),
        none("auth-quoted", (b"authorization", b'Bearer "' + right + b'"')),
        none("auth-two-keys-in-one", (b"authorization", b"Bearer " + right + b", Bearer " + right)),
        none("auth-huge", (b"authorization", b"Bearer " + b"k" * 30_000)),
        none("auth-non-ascii", (b"authorization", b"Bearer \xff\xfe" + right)),
        none("auth-query", (b"x-none", b"")),
        at(none("auth-before-model"), "auth-before-body", path="/api" + CHAT),
        replace(none("auth-none-bad-body"), ask=Ask("POST", CHAT, (), b"{")),
        replace(none("auth-none-large-body"), ask=Ask("POST", CHAT, (), b"x" * 1_500_000)),
        replace(none("auth-none-over-limit"), ask=Ask("POST", CHAT, (), b"x" * (BODY_BYTES_MAX + 1))),
    ]


def json_rows() -> list[Row]:
    """Bodies that are no JSON object, or an absurd one."""
    deep = b"[" * 100_000
    return [
        bad("json-empty", b""), raw("json-no-body", None, 400, "invalid_request"),
        bad("json-space", b"  \n"), bad("json-null", b"null"), bad("json-array", b"[]"), bad("json-string", b'"x"'),
        bad("json-number", b"7"), bad("json-empty-object", {}), bad("json-truncated", HI_BODY[:-1]),
        bad("json-trailing", HI_BODY + b"x"), bad("json-two", HI_BODY + HI_BODY), bad("json-comma",
            HI_BODY[:-1] + b",}"),
        bad("json-comment", b"/* */" + HI_BODY), bad("json-single-quotes", HI_BODY.replace(b'"', b"'")),
        bad("json-nul", HI_BODY + b"\x00"), bad("json-bom", b"\xef\xbb\xbf" + HI_BODY),
        bad("json-utf-16", HI_BODY.decode().encode("utf-16")), bad("json-utf-32", HI_BODY.decode().encode("utf-32")),
        bad("json-invalid-utf-8", HI_BODY.replace(b"Hi", b"\xff\xfe")),
        bad("json-invalid-utf-8-key", HI_BODY.replace(b"{", b'{"\xc3": 1, ', 1)),
        bad("json-overlong-utf-8", HI_BODY.replace(b"Hi", b"\xc0\xaf")),
        bad("json-surrogate-utf-8", HI_BODY.replace(b"Hi", b"\xed\xa0\x80")),
        bad("json-control-in-string", HI_BODY.replace(b"Hi", b"H\ni")),
        bad("json-nan", HI_BODY.replace(b"{", b'{"x": NaN, ', 1)),
        bad("json-infinity", HI_BODY.replace(b"{", b'{"x": -Infinity, ', 1)),
        bad("json-leading-zero", HI_BODY.replace(b"{", b'{"x": 01, ', 1)),
        bad("json-deep", deep), bad("json-deep-closed", deep + b"]" * 100_000),
        bad("json-deep-field", b'{"model": "sim/echo", "messages": [], "x": ' + deep + b"]" * 100_000 + b"}"),
        bad("json-deep-objects", b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
        bad("json-form", b"model=sim%2Fecho&messages=hi"), bad("json-sse", b"data: " + HI_BODY + b"\n\n"),
        raw("json-many-digits", HI_BODY.replace(b"{", b'{"seed": ' + b"9" * 1_000_000 + b", ", 1), 400),
        raw("json-1e999", HI_BODY.replace(b"{", b'{"temperature": 1e999, ', 1), 400),
        raw("json-lone-surrogate", HI_BODY.replace(b"Hi", b"\\ud800"), 400),
        raw("json-many-keys", dumps({f"k{number}": number for number in range(50_000)} | _fields()), 200),
    ]  # fmt: skip


def _fields() -> dict[str, object]:
    return {"model": ECHO, "messages": MESSAGES}


def field_rows() -> list[Row]:
    """Fields of the wrong kind."""
    stream: dict[str, object] = {"stream": True}
    limits: dict[str, object] = {
        "negative": -1, "zero": 0, "2-63": 2**63, "2-64": 2**64, "2-31": 2**31, "true": True, "string": "5",
        "list": [5], "fraction": 1.5,
    }  # fmt: skip
    rows = [bad_field(f"max-tokens-{name}", {"max_tokens": value}) for name, value in limits.items()]
    rows += [
        bad_field(f"max-completion-tokens-{name}", {"max_completion_tokens": limits[name]}) for name in ("zero", "true")
    ]
    wrong: dict[str, dict[str, object]] = {
        "stream": {"yes": "yes", "one": 1, "zero": 0, "list": [], "object": {}},
        "messages": {"null": None, "empty": [], "string": "Hi", "object": {}, "number": 1, "true": True},
        "model": {"null": None, "empty": "", "number": 7, "list": [ECHO], "object": {"id": ECHO}, "bare": "echo",
                  "bare-control": "a\x00b\r\nx: y"},
        "stream_options": {"string": "x", "list": [], "true": True, "usage-string": {"include_usage": "yes"},
                           "usage-1": {"include_usage": 1}},
    }  # fmt: skip
    for field, values in wrong.items():
        asked = stream if field == "stream_options" else {}
        rows += [bad_field(f"{field}-{name}", asked | {field: value}) for name, value in values.items()]
    unknown = {"unknown": "no/such", "long": "a/" + "b" * 100_000, "control": "a/\x00\r\nx-injected: 1\x1b[31m",
               "case": "SIM/ECHO", "space": " sim/echo", "two-slashes": "sim/echo/x", "unicode": "sim/échō",
               "path": "../../etc/passwd"}  # fmt: skip
    rows += [chat(f"model-{name}", {"model": value}, 404, code="model_not_found") for name, value in unknown.items()]
    rows += [
        bad("messages-missing", {"model": ECHO}),
        bad("model-missing", {"messages": MESSAGES}),
        raw("max-tokens-1e9", HI_BODY.replace(b"{", b'{"max_tokens": 1e9, ', 1), 400, "invalid_request"),
        chat("upstream-refuses-temperature", {"temperature": 9}, 400),
        chat("upstream-refuses-message", {"messages": [{"role": "nobody", "content": ""}]}, 400),
        chat("upstream-refuses-n", {"n": 0, "stream": True}, 400),
        chat("upstream-refuses-stream-options", {"stream_options": {"include_usage": True}}, 400),
        chat("model-disabled", {"model": "off/model"}, 503, code="no_route"),
        chat("model-disabled-stream", {"model": "off/model", "stream": True}, 503, code="no_route"),
        chat("model-embeddings", {"model": "t/embeddings"}, 400, code="invalid_request"),
        chat("model-no-stream", {"model": "t/no-stream", "stream": True}, 400, code="invalid_request"),
        chat("model-no-tools", {"model": "t/no-stream", "tools": [TOOL]}, 400, code="invalid_request"),
    ]
    return rows


def route_rows() -> list[Row]:
    """Methods and paths."""

    def no_body(
        name: str, method: str, path: str, status: int = 200, code: str | None = None, **expected: object
    ) -> Row:
        return replace(Row(name, Ask(method, path, (AUTH,)), status, code), **expected)  # type: ignore[arg-type]

    post_only: dict[str, Any] = {"status": 405, "code": "method_not_allowed", "header": (("allow", "POST"),)}
    rows = [no_body(f"method-{method.lower()}", method, CHAT, **post_only) for method in
            ("GET", "DELETE", "OPTIONS")]  # fmt: skip
    rows += [at(HI, f"method-{method.lower()}", method=method, **post_only) for method in ("PUT", "PATCH")]
    rows += [no_body("method-head", "HEAD", CHAT, 405), no_body("method-unknown", "PROPFIND", CHAT, **post_only)]
    rows += [with_headers(no_body("m", "GET", CHAT), "method-get-no-key", **post_only)]
    paths = {"trailing-slash": CHAT + "/", "case": "/V1/chat/completions", "dot": "/v1/./chat/completions",
             "dot-dot": "/v1/x/../chat/completions", "escaped-slash": "/v1%2Fchat/completions",
             "escaped": "/v1/ch%61t/completions", "escaped-last-slash": "/v1/chat%2fcompletions",
             "nul": "/v1/chat/completions%00", "semicolon": CHAT + ";x=1", "other": "/v1/completions", "root": "/",
             "bad-escape": "/v1/chat/completions%zz", "admin": "/admin", "v2": "/v2/chat/completions",
             "bad-utf-8": "/v1/%ff%fe"}  # fmt: skip
    rows += [at(HI, f"path-{name}", path=path, status=404, code="not_found") for name, path in paths.items()]
    rows += [
        no_body(f"path-get-{name}", "GET", paths[name], 404, "not_found") for name in ("other", "root", "bad-utf-8")
    ]
    return rows + _model_rows(no_body) + _state_rows(no_body)


def _model_rows(no_body: Callable[..., Row]) -> list[Row]:
    rows: list[Row] = [
        no_body(
            "models", "GET", "/v1/models", contains=(b'"object":"list"', b'"id":"sim/echo"'), lacks=(b"off/model",)
        ),
        no_body("models-api", "GET", "/api/v1/models", contains=(b'"id":"sim/echo"',)),
        no_body("models-query", "GET", "/v1/models?limit=1", contains=(b'"id":"sim/echo"',)),
        no_body("models-one", "GET", "/v1/models/sim/echo", contains=(b'"id":"sim/echo"',)),
        no_body("models-one-escaped", "GET", "/v1/models/sim%2Fecho", contains=(b'"id":"sim/echo"',)),
        no_body("models-one-api", "GET", "/api/v1/models/sim/echo", contains=(b'"id":"sim/echo"',)),
        no_body("models-alias", "GET", "/v1/models/echo-alias", contains=(b'"id":"sim/echo"',)),
        no_body("models-unknown", "GET", "/v1/models/no/such", 404, "model_not_found"),
        no_body("models-unknown-bare", "GET", "/v1/models/such", 404, "model_not_found"),
        no_body("models-disabled", "GET", "/v1/models/off/model", 404, "model_not_found"),
        no_body("models-hostile", "GET", "/v1/models/x%0dx:%20y%00%1b", 404, "model_not_found"),
        no_body("models-hostile-lines", "GET", "/v1/models/%0d%0ax:%20y", 404, "not_found"),
        no_body("endpoints-escaped", "GET", "/v1/models/sim%2Fecho%2Fendpoints", contains=(b'"tag"',), same_body=False),
        no_body("endpoints-alias", "GET", "/v1/models/echo-alias/endpoints", contains=(b'"tag"',), same_body=False),
        no_body("endpoints-unknown", "GET", "/v1/models/no/such/endpoints", 404, "model_not_found"),
        no_body("endpoints-disabled", "GET", "/v1/models/off/model/endpoints", 404, "model_not_found"),
        no_body("endpoints-slash", "GET", "/v1/models/sim/echo/endpoints/", 404, "model_not_found"),
        no_body("models-head", "HEAD", "/v1/models"),
        no_body("models-delete", "DELETE", "/v1/models", 405, "method_not_allowed"),
        at(HI, "models-post", path="/v1/models", status=405, code="method_not_allowed"),
        no_body("models-options", "OPTIONS", "/v1/models", 405, "method_not_allowed"),
    ]
    listing = no_body("m", "GET", "/v1/models")
    endpoints = no_body("e", "GET", "/v1/models/sim/echo/endpoints", same_body=False)
    return [
        *rows,
        replace(endpoints, name="endpoints", contains=(b'"tag":"sim"', b'"breaker":["', b'"status":')),
        with_headers(listing, "models-no-key", status=401, code="invalid_api_key"),
        with_headers(listing, "models-wrong-key", (b"x-api-key", b"nope"), status=401, code="invalid_api_key"),
        with_headers(listing, "models-revoked", (b"x-api-key", REVOKED), status=401, code="invalid_api_key"),
        with_headers(listing, "models-x-api-key", (b"x-api-key", b"{key}")),
        with_headers(listing, "models-non-ascii-key", (b"x-api-key", b"\xff"), status=401, code="invalid_api_key"),
        with_headers(at(listing, "a", path="/api/v1/models"), "models-api-no-key"),
        with_headers(endpoints, "endpoints-no-key", status=401, code="invalid_api_key"),
        with_headers(at(endpoints, "a", path="/api/v1/models/sim/echo/endpoints"), "endpoints-api-no-key"),
    ]


def _state_rows(no_body: Callable[..., Row]) -> list[Row]:
    return [
        no_body("health", "GET", "/health", contains=(b'"ok"',)),
        with_headers(no_body("h", "GET", "/health"), "health-no-key", contains=(b'"ok"',)),
        no_body("health-head", "HEAD", "/health"),
        at(HI, "health-post", path="/health", status=405, code="method_not_allowed"),
        no_body("ready", "GET", "/ready", contains=(b'"ok"',)),
        no_body("metrics", "GET", "/metrics", contains=(b"gateway_calls_total",), same_body=False),
        with_headers(no_body("m", "GET", "/metrics"), "metrics-forwarded", (b"x-forwarded-for", b"203.0.113.9"),
                     status=404, code="not_found"),
        replace(at(HI, "health-large-body", path="/health", status=405),
                ask=Ask("POST", "/health", (AUTH,), b"x" * 200_000)),
    ]  # fmt: skip


def size_rows() -> list[Row]:
    """Bodies at and over the limit."""
    padding = BODY_BYTES_MAX - len(HI_BODY)
    over: dict[str, Any] = {"status": 413, "code": "payload_too_large"}
    chunks = (b"x" * 100_000,) * (BODY_BYTES_MAX // 100_000) + (b"x",)
    return [
        raw("size-at-limit", HI_BODY + b" " * padding, 200, contains=(b"Hi there",)),
        raw("size-over-limit", HI_BODY + b" " * (padding + 1), **over),
        raw("size-far-over", b"x" * (BODY_BYTES_MAX * 3), **over),
        replace(HI, name="size-over-chunked", ask=Ask("POST", CHAT, (AUTH,), None, chunks), **over),
    ]


ROWS = [*good_rows(), *auth_rows(), *json_rows(), *field_rows(), *route_rows(), *size_rows(), *FAULT_ROWS]
