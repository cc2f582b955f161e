"""Every error chatd raises on purpose, sorted by who is to blame.

::

    ChatdError
    ├── Refusal            the caller asked for something it cannot have; `code` is a protocol error code
    │   ├── BadFrame            bad_frame         ├── IdReuse       id_reuse
    │   ├── Unsupported         unsupported       ├── OutOfOrder    out_of_order   (temporary)
    │   ├── Unauthenticated     unauthenticated   ├── TooLarge      too_large
    │   ├── Forbidden           forbidden         ├── RateLimited   rate_limited   (temporary)
    │   ├── NotFound            not_found         ├── Overloaded    overloaded     (temporary)
    │   ├── Unavailable         unavailable (temporary): the store said no; nothing was stored
    │   └── InternalError       internal: ours; it was logged where it happened
    ├── OutcomeUnknown     a write may or may not be stored: read it back before saying anything
    ├── StoreBroken        the disk cannot be trusted (fsync failed): the process must end
    ├── StartError         the process cannot start (exit 3)
    │   └── InUse               another process has what it needs
    ├── NoServer           no server runs where one is asked for (exit 4)
    └── ConfigError        the configuration is wrong (exit 78)

A refusal that is `temporary` may be repeated with the same id, after ``retry_after_ms`` if given.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_START = 3
EXIT_NO_SERVER = 4
EXIT_CONFIG = 78


class ChatdError(Exception):
    """The root: catching it catches all that chatd raises on purpose."""


class Refusal(ChatdError):
    """A request that is answered with a protocol ``error`` of this ``code``."""

    code: ClassVar[str] = "internal"
    temporary: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class BadFrame(Refusal):
    """The frame or request does not have the shape that the protocol gives it."""

    code = "bad_frame"


class Unsupported(Refusal):
    """A type or operation that this version does not know."""

    code = "unsupported"


class Unauthenticated(Refusal):
    """No token, or one that is wrong, expired or revoked."""

    code = "unauthenticated"


class Forbidden(Refusal):
    """Known, and not allowed."""

    code = "forbidden"


class NotFound(Refusal):
    """No such thing, or not yours: the two look the same."""

    code = "not_found"


class IdReuse(Refusal):
    """The id already names a message with another body."""

    code = "id_reuse"


class OutOfOrder(Refusal):
    """An earlier send of this connection is missing or was refused."""

    code = "out_of_order"
    temporary = True


class TooLarge(Refusal):
    """Over a limit that `welcome` told."""

    code = "too_large"


class RateLimited(Refusal):
    """Too fast."""

    code = "rate_limited"
    temporary = True


class Overloaded(Refusal):
    """A queue of the server is at its bound."""

    code = "overloaded"
    temporary = True


class Unavailable(Refusal):
    """The store could not do it; nothing was stored."""

    code = "unavailable"
    temporary = True


class InternalError(Refusal):
    """A fault of the server's own."""

    code = "internal"
    temporary = True


REFUSALS: dict[str, type[Refusal]] = {
    kind.code: kind
    for kind in (
        BadFrame,
        Unsupported,
        Unauthenticated,
        Forbidden,
        NotFound,
        IdReuse,
        OutOfOrder,
        TooLarge,
        RateLimited,
        Overloaded,
        Unavailable,
        InternalError,
    )
}


class OutcomeUnknown(ChatdError):
    """A write may or may not be stored; the lane stops until it has been read back."""


class StoreBroken(ChatdError):
    """The disk cannot be trusted any more; the process ends and recovers from disk at its next start."""


class StartError(ChatdError):
    """One line that says why the process cannot start, and the way out (exit 3)."""


class InUse(StartError):
    """Another process has what this one needs. ``holder``: its id, or ``?``."""

    def __init__(self, message: str, holder: str) -> None:
        super().__init__(message)
        self.holder = holder


class NoServer(ChatdError):
    """One line that says where no server runs, and the way out (exit 4)."""


class ConfigError(ChatdError):
    """One line that names the setting, what is wrong with it, and its neighbour (exit 78)."""
