"""``chatd health``: what a container's health check and a script ask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chatd.cli.common import Failed, load_settings, place_options
from chatd.settings import ServerSettings

if TYPE_CHECKING:
    import ssl

TIMEOUT_S = 5.0
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what listens everywhere is asked here


@click.command()
@place_options
@click.option("--url", help="Ask the server there instead, as https://chat.example.")
def health(config: Path | None, data_dir: str | None, url: str | None) -> None:
    """Ask whether the server takes messages: exit code 0 if it does, else 1 and a line that says why not.

    Without --url it is the server of this machine, at the address and port of its settings.
    """
    if url is None:
        server = load_settings(config, data_dir).server
        _ask(_own_url(server), verify=False)
    else:
        if not url.startswith(("http://", "https://")):
            raise click.UsageError(f"{url}: no URL that begins with http:// or https://")
        _ask(url.rstrip("/"), verify=True)
    click.echo("ready")


def _own_url(server: ServerSettings) -> str:
    """Where the server of these settings listens. Raises: Failed – nobody can know."""
    if server.port == 0:
        raise Failed("server.port is 0, so the port is another one at each start: name the server with --url")
    host = ANYWHERE.get(server.host, server.host)
    scheme = "https" if server.tls_certificate else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"


def _ask(url: str, *, verify: bool) -> None:
    """GET /readyz. Raises: Failed – it did not answer with 200 in time."""
    from urllib.error import HTTPError
    from urllib.request import HTTPSHandler, ProxyHandler, build_opener

    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=None if verify else _unverified()))
    try:
        opener.open(f"{url}/readyz", timeout=TIMEOUT_S).close()
    except HTTPError as exc:
        exc.close()
        raise Failed(f"{url}: not ready: it answers {exc.code}") from exc
    except (OSError, ValueError) as exc:
        raise Failed(f"{url}: no answer: {getattr(exc, 'reason', exc)}") from exc


def _unverified() -> ssl.SSLContext:
    """The certificate names the public host, not this address; nothing is told or believed but a status."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
