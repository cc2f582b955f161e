"""TLS of the server's own, where no proxy stands in front: one certificate, replaceable while connections live.

Each handshake takes the pair that is in force then; a connection keeps what it began with.
"""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import structlog

from chatd.errors import ConfigError
from chatd.limits import is_loopback
from chatd.settings import ServerSettings

LOOK_S = 10.0
"""How often the files are looked at; SIGHUP does it at once."""

log = structlog.get_logger("chatd.tls")


def require_encryption(server: ServerSettings) -> None:
    """Raises: ConfigError – other machines could reach this server, and what they say could be read on the way."""
    if not (server.tls_certificate or server.allow_cleartext or is_loopback(server.host)):
        raise ConfigError(
            f"server.host: other machines reach {server.host}, and passwords would come to it unencrypted: set "
            "server.tls_certificate and server.tls_key, or, where a proxy in front ends TLS, server.allow_cleartext"
        )


class Certificate:
    """``server.tls_certificate`` and ``server.tls_key``, two PEM files. ``context`` is what listens.

    ``until``: the end of the certificate in force.

    Raises: ConfigError – one of them cannot be used, or they do not belong together.
    """

    def __init__(self, server: ServerSettings) -> None:
        self._certificate = Path(server.tls_certificate)
        self._key = Path(server.tls_key)
        self._timer: asyncio.TimerHandle | None = None
        self.until: datetime
        self._tried = self._stamps()
        self._in_force = self._load()
        self.context = self._load()
        self.context.sni_callback = self._choose

    def start(self) -> None:
        """Look from now on whether the files have changed."""
        self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def stop(self) -> None:
        """No longer."""
        if self._timer is not None:
            self._timer.cancel()

    def renew(self) -> bool:
        """Read the files again. False: they are wrong, which was logged; what was in force stays."""
        self._tried = self._stamps()
        try:
            self._in_force = self._load()
        except ConfigError as exc:
            log.error("tls_not_renewed", error=str(exc))  # noqa: TRY400 - the line says all there is
            return False
        log.info("tls_renewed", until=self.until.isoformat())
        self.warn()
        return True

    def warn(self) -> None:
        """Log a certificate that no client will take any more."""
        if self.until <= datetime.now(UTC):
            log.warning("tls_certificate_expired", until=self.until.isoformat())

    def _look(self) -> None:
        if self._stamps() != self._tried:  # half of a new pair is refused; the other half changes the stamps again
            self.renew()
        self.start()

    def _stamps(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(path) for path in (self._certificate, self._key)]

    def _choose(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        handshake.context = self._in_force

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        found: list[bytes] = []
        for setting, path in (("tls_certificate", self._certificate), ("tls_key", self._key)):
            try:
                found.append(path.read_bytes())
            except OSError as exc:
                raise ConfigError(f"server.{setting}: {path}: {exc.strerror or exc}") from exc
        from cryptography import x509  # who has no certificate does not wait for it

        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_passphrase)
            self.until = x509.load_pem_x509_certificate(found[0]).not_valid_after_utc
        except (OSError, ValueError) as exc:  # SSLError is an OSError; so is a file that went away meanwhile
            raise ConfigError(self._why(exc)) from exc
        return context

    def _why(self, exc: Exception) -> str:
        if getattr(exc, "reason", None) == "KEY_VALUES_MISMATCH":
            return f"server.tls_key: {self._key} is not the key of the certificate in {self._certificate}"
        if isinstance(exc, _Locked):
            return f"server.tls_key: {self._key} has a passphrase, and nobody is there to type it: store it without"
        return (
            f"server.tls_certificate, server.tls_key: {self._certificate} and {self._key} are no certificate and key "
            f"in PEM ({getattr(exc, 'reason', None) or exc})"
        )


class _Locked(ValueError):
    pass


def _no_passphrase() -> str:
    raise _Locked


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:  # it is being replaced, or gone: whichever, it is not what it was
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
