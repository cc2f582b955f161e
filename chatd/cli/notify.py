"""``chatd push``: the keys that clients need, and whether a notification arrives."""

from __future__ import annotations

import json

import click

from chatd.cli.administer import Place, as_json, with_place
from chatd.cli.common import Failed


@click.group()
def push() -> None:
    """Notifications: the keys that clients subscribe with, and a test."""


@push.command()
@as_json
@with_place
def keys(place: Place, as_json: bool) -> None:
    """Print what clients need to know to subscribe: for Web Push the public VAPID key. Made once, and kept."""
    kinds = place.call("push_kinds")
    if as_json:
        click.echo(json.dumps(kinds))
        return
    for kind, public in kinds.items():
        click.echo("  ".join([kind, *(f"{name} {text}" for name, text in public.items())]))
    if "webpush" not in kinds:
        click.echo("Web Push is not here: pip install 'chatd[push]'", err=True)


@push.command()
@click.argument("user")
@as_json
@with_place
def test(place: Place, user: str, as_json: bool) -> None:
    """Send a test notification to every device of a user that subscribed, and tell what came of each."""
    results = place.call("push_test", user=user)
    if as_json:
        click.echo(json.dumps(results))
    else:
        for one in results:
            where = one["device"] or "every user"
            click.echo("  ".join(part for part in (one["kind"], where, one["result"], one["reason"]) if part))
    if not results:
        raise Failed(f"{user} has no device that subscribed (PUT /v1/push/subscription), and there is no webhook")
    if any(one["result"] != "delivered" for one in results):
        raise Failed(f"not every notification to {user} was taken")
