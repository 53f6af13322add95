"""The error tree. Raised once where a thing goes wrong, rendered once in `gateway/edge/replies.py`.

    GatewayError
    +-- CallerError            the request is at fault; never retried elsewhere
    |   +-- BadRequest 400     +-- InvalidKey 401      +-- NotFound 404         +-- MethodNotAllowed 405
    |   +-- RequestTimeout 408 +-- PayloadTooLarge 413 +-- HeadTooLarge 431
    |   +-- PaymentRequired 402                         +-- PermissionDenied 403 +-- Conflict 409
    |   +-- RateLimited 429    +-- Refused 4xx        a provider refused the request itself
    +-- OurError               this process cannot serve now
    |   +-- Internal 500       +-- Overloaded 503      +-- ShuttingDown 503     +-- NoRoute 503
    +-- UpstreamError          the providers are at fault
        +-- AllFailed 502/503  +-- StreamBroken 502    +-- Timeout 504

`code` is a low-cardinality label, used in bodies, records and metrics. `error_type` is the OpenAI `type`.
A message says what was wrong, which value, and what to change; it never holds a key, a prompt or an upstream body.
The HTTP vocabulary is that of the OpenAI API reference and OpenRouter's errors-and-debugging page.
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of what a caller can be told. `retry_after_s` becomes `Retry-After`, in whole seconds, rounded up."""

    status = 500
    code = "internal_error"
    error_type = "api_error"

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


class CallerError(GatewayError):
    """The request is at fault."""

    status = 400
    code = "invalid_request"
    error_type = "invalid_request_error"


class BadRequest(CallerError):
    """400: malformed body, missing field, bad value."""


class InvalidKey(CallerError):
    """401: no key, or a key we do not know."""

    status = 401
    code = "invalid_api_key"


class PaymentRequired(CallerError):
    """402: the credit or the key's spend cap does not cover what the call may cost. Nothing was sent anywhere."""

    status = 402
    code = "insufficient_balance"
    error_type = "insufficient_quota"


class SpendLimitReached(PaymentRequired):
    """402: the key's own `limit` is spent for this period."""

    code = "spend_limit_reached"


class PermissionDenied(CallerError):
    """403: we know the caller, and it may not do this. `code` says why."""

    status = 403
    code = "permission_denied"
    error_type = "permission_denied"

    def __init__(self, message: str, *, code: str = "permission_denied", param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.code = code


class Conflict(CallerError):
    """409: an Idempotency-Key that was used before, for another request or with an answer no longer kept."""

    status = 409

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class RateLimited(CallerError):
    """429: a limit of ours. `retry_after_s` is exact; the same call passes then, if no other came between."""

    status = 429
    code = "rate_limit_exceeded"
    error_type = "rate_limit_exceeded"


class NotFound(CallerError):
    """404: no such model or path."""

    status = 404
    code = "not_found"


class ModelNotFound(NotFound):
    """404: a well-formed model id that the catalogue does not hold."""

    code = "model_not_found"


class RouteConstrained(NotFound):
    """404: the model is served, but by nobody whom the request's own constraints leave (`provider`, `:free`)."""

    code = "constraint_filtered"


class MethodNotAllowed(CallerError):
    """405."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: str) -> None:
        super().__init__(message)
        self.allow = allow


class RequestTimeout(CallerError):
    """408: the head or the body did not arrive in time."""

    status = 408
    code = "request_timeout"


class PayloadTooLarge(CallerError):
    """413."""

    status = 413
    code = "payload_too_large"


class HeadTooLarge(CallerError):
    """431: over 64 KiB of head or over 100 header lines."""

    status = 431
    code = "headers_too_large"


class Refused(CallerError):
    """A provider refused the request itself (400, 409, 413, 422): another provider would too, so no fallback."""

    code = "provider_refused"

    def __init__(self, message: str, *, status: int, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message, param=param)
        self.status = status
        if code:
            self.code = code


class OurError(GatewayError):
    """This process cannot serve the call."""

    status = 503
    code = "overloaded"


class Internal(OurError):
    """500: a bug of ours. The message is masked; the log has the trace under the request id."""

    status = 500
    code = "internal_error"


class Overloaded(OurError):
    """503: a bounded resource is full (request bodies, records, connections)."""


class ShuttingDown(OurError):
    """503: the process drains."""

    code = "shutting_down"


class NoRoute(OurError):
    """503: the model is known, but no enabled offer can serve it."""

    code = "no_route"


class UpstreamError(GatewayError):
    """The providers are at fault."""

    status = 502
    code = "upstream_error"


class AllFailed(UpstreamError):
    """Every attempt failed: 502 when any provider answered badly, else 503 with the least Retry-After."""

    def __init__(self, message: str, *, status: int, retry_after_s: float | None = None) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        self.status = status


class StreamBroken(UpstreamError):
    """The provider failed after the first content: told in-stream, never retried."""

    code = "upstream_broken"


class Timeout(UpstreamError):
    """504: `total_s` or `idle_s` ran out."""

    status = 504
    code = "timeout"


class AttemptFailed(Exception):
    """One attempt failed before its first content. Internal to the race; callers see `AllFailed` or `Refused`.

    `outcome` is the metric label. `reach` says what else is pointless: "key" (other keys of the provider may
    work), "provider" (go to the next provider) or "call" (no other attempt can help: `refusal` is raised).
    """

    def __init__(
        self,
        outcome: str,
        *,
        status: int = 0,
        reach: str = "provider",
        retry_after_s: float | None = None,
        refusal: GatewayError | None = None,
    ) -> None:
        super().__init__(outcome)
        self.outcome = outcome
        self.status = status
        self.reach = reach
        self.retry_after_s = retry_after_s
        self.refusal = refusal
