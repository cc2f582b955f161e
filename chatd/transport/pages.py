"""The two pages that the server has of its own: where one lands, and where an invite is used.

Each has its style and script inline, under a Content-Security-Policy that names them by hash and allows nothing else.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from chatd import __version__

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34rem;margin:3rem auto;padding:0 1rem;color-scheme:light dark}"
    "label{display:block;margin:.8rem 0}"
    "input{display:block;width:100%;box-sizing:border-box;font:inherit;padding:.4rem}"
    "button{font:inherit;padding:.4rem 1rem}"
)

_JOIN_SCRIPT = """
const form = document.querySelector("form"), told = document.querySelector("output");
const invite = location.hash.slice(1);
history.replaceState(null, "", location.pathname);
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  told.textContent = "…";
  const account = {user: form.user.value, password: form.password.value};
  if (invite) account.invite = invite;
  try {
    const answer = await fetch("v1/register", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(account)});
    const said = await answer.json();
    told.textContent = answer.ok ? `Welcome, ${said.user}. Log in with any chatd client.` : said.detail;
    if (answer.ok) form.hidden = true;
  } catch (error) {
    told.textContent = "The server did not answer.";
  }
});
"""


def _page(title: str, body: str, script: str = "") -> bytes:
    tail = f"<script>{script}</script>" if script else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<h1>{escape(title)}</h1>{body}{tail}</html>\n"
    ).encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_JOIN_SCRIPT)}; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

LANDING = _page(
    f"chatd {__version__}",
    "<p>A server for real-time one-to-one messaging. It speaks WebSocket at <code>/v1/ws</code> and HTTP.</p>"
    '<ul><li><a href="join">Create an account</a><li><a href="v1/openapi.json">The HTTP API</a> (OpenAPI 3.1)'
    '<li><a href="healthz">Live?</a> <a href="readyz">Ready?</a> <a href="version">Version</a></ul>',
)

JOIN = _page(
    "Join chatd",
    "<form><label>User name <input name=user required maxlength=64 autocomplete=username autocapitalize=none"
    ' pattern="[a-z0-9][a-z0-9._\\-]{0,63}" title="a-z 0-9 . _ -"></label>'
    "<label>Password <input name=password type=password required autocomplete=new-password></label>"
    "<button>Create account</button></form><p><output></output></p>"
    "<noscript><p>This page needs JavaScript; so does nothing else: see <code>chatd user add</code>.</p></noscript>",
    _JOIN_SCRIPT,
)
