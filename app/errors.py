"""Every error that Caisson answers with, and the one place that renders them.

    GatewayError(title, code)           status
      Unauthorized 401   Forbidden 403   NotFound 404   Conflict 409   WrongState 409
      Invalid 400 (FieldTooNew)   QuotaExceeded 403   Unsupported 501   UnknownVersion 406
      TooLarge 413   WrongContentType 415   Busy 503   SlowClient 408   TooManyRequests 429   HeadTooLarge 431
      EngineError                       raised only below app/backends
        Gone 404   Taken 409   Refused 400 (RegistryDown)   Unavailable 503   EngineBug 502

`code` is the part after ``container.`` in Zun's error envelope (zun-api, section 2.1); clients never read it, but
tests and people do. Inner code never raises ``HTTPException``. Magnum's envelope is made in ``app.apis``.
"""

from typing import Any


class GatewayError(Exception):
    """An error that has an HTTP status and a sentence for the user."""

    status = 500
    code = ""

    def __init__(self, title: str, *, code: str | None = None, detail: str | None = None, **more: str) -> None:
        """`more` are further keys of the error object in the answer."""
        super().__init__(title)
        self.title = title
        self.detail = title if detail is None else detail
        self.more = more
        if code is not None:
            self.code = code


class Unauthorized(GatewayError):
    """No token, or one that identifies nobody (401)."""

    status, code = 401, "unauthorized"


class Forbidden(GatewayError):
    """A policy rule said no (403)."""

    status, code = 403, "policy-not-authorized"


class NotFound(GatewayError):
    """Absent, or invisible to the caller's project: the two look alike on purpose (404)."""

    status, code = 404, "resource-not-found"


class Conflict(GatewayError):
    """The request meets something that is there already (409)."""

    status, code = 409, "conflict"


class WrongState(Conflict):
    """The resource's status does not allow this verb (409)."""

    code = "invalid-state-exception"


class Invalid(GatewayError):
    """Bad input: the title names the field and the limit (400)."""

    status, code = 400, "invalid-value"


class FieldTooNew(Invalid):
    """A field that the requested microversion does not have (400)."""

    code = "invalid-param-in-version"


class QuotaExceeded(GatewayError):
    """A project's limit is reached (403)."""

    status, code = 403, "over-quota"


class Unsupported(GatewayError):
    """The engine lacks the ability; refused before anything is stored (501)."""

    status, code = 501, "unsupported"


class UnknownVersion(GatewayError):
    """A version header that cannot be served (406)."""

    status, code = 406, ""


class TooLarge(GatewayError):
    """A body over the configured limit (413)."""

    status, code = 413, "request-too-large"


class SlowClient(GatewayError):
    """A body that does not get complete (408)."""

    status, code = 408, "request-timeout"


class TooManyRequests(GatewayError):
    """A project asks more than its share (429)."""

    status, code = 429, "too-many-requests"


class HeadTooLarge(GatewayError):
    """A request's line and headers over the limit (431)."""

    status, code = 431, "request-header-too-large"


class WrongContentType(GatewayError):
    """A body that is not JSON where JSON is needed (415)."""

    status, code = 415, "unsupported-media-type"


class Busy(GatewayError):
    """A part that Caisson depends on cannot answer right now (503)."""

    status, code = 503, "service-unavailable"


class EngineError(GatewayError):
    """Raised only by backends. The title is the engine's own sentence."""

    status, code = 502, "engine-error"


class Gone(EngineError):
    """The engine does not have this object (404)."""

    status, code = 404, "engine-gone"


class Taken(EngineError):
    """A name, address or port is in use, or the object is in the wrong state for the verb (409)."""

    status, code = 409, "conflict"


class Refused(EngineError):
    """The engine understood and said no, for good (400)."""

    status, code = 400, "engine-refused"


class RegistryDown(Refused):
    """The engine could not reach the image's registry (503): no answer, which is not the same as a no."""

    status, code = 503, "registry-unreachable"


class Unavailable(EngineError):
    """The engine cannot be reached or did not answer in time; trying again may help (503)."""

    status, code = 503, "engine-unavailable"


class EngineBug(EngineError):
    """The engine failed inside (502)."""

    status, code = 502, "engine-error"


def envelope(status: int, code: str, title: str, detail: str, request_id: str, **more: Any) -> dict[str, Any]:
    """Zun's error body (zun-api, section 2.1). `more` adds keys to the error object."""
    error = {
        "request_id": request_id,
        "code": f"container.{code}",
        "status": status,
        "title": title,
        "detail": detail,
        "links": [],
    }
    return {"errors": [error | more]}
