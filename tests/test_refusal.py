"""What a provider's refusal may tell the caller: its reason, and never a key."""

from __future__ import annotations

import json

import pytest

from gateway.dialects.refusal import MESSAGE_CHARS_MAX, read_refusal

SECRET = "acme7secret-0123456789abcdef"


def refusal(body: object, status: int = 400) -> tuple[str, str, str | None]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = read_refusal(status, raw, provider="acme", secret=SECRET)
    assert error.status == status
    return error.message, error.code, error.param


def test_the_reason_code_and_field_go_on() -> None:
    message, code, param = refusal(
        {"error": {"message": "max_tokens is too large", "code": "invalid_value", "param": "messages[0].content"}}
    )
    assert message == "provider acme refused the request: max_tokens is too large"
    assert (code, param) == ("invalid_value", "messages[0].content")


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>no</html>", b"[1]", b"null", b'{"error":7}', {"error": {}}, {"error": {"message": 5, "code": 9}}],
)
def test_without_a_reason_the_status_is_told(body: object) -> None:
    message, code, param = refusal(body, 422)
    assert "(422)" in message
    assert (code, param) == ("provider_refused", None)


@pytest.mark.parametrize(
    "body", [{"detail": "no such field"}, {"error": "no such field"}, {"message": "no such field"}]
)
def test_other_shapes_of_a_reason(body: object) -> None:
    assert refusal(body)[0].endswith(": no such field")


@pytest.mark.parametrize("key", [SECRET, "sk-proj-abcdefghijklmnop", "gsk_abcdefghijklmnopqrst"])
def test_no_key_goes_on(key: str) -> None:
    message, code, param = refusal({"error": {"message": f"key {key} may not", "code": key, "param": key}})
    assert key not in message
    assert "***" in message
    assert (code, param) == ("provider_refused", None)


def test_a_key_across_the_limit_is_masked_before_the_cut() -> None:
    padding = "x" * (MESSAGE_CHARS_MAX - 10)
    message, _, _ = refusal({"error": {"message": padding + " " + SECRET}})
    assert SECRET[:8] not in message


def test_control_characters_and_length_are_bounded() -> None:
    message, _, _ = refusal({"error": {"message": "a\r\nb\x00c" + "y" * 5000}})
    assert "a b c" in message
    assert len(message) < MESSAGE_CHARS_MAX + 100
