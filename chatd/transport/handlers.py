"""What each HTTP endpoint does, by its name in the table of `chatd.transport.openapi`."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from chatd import __version__, protocol
from chatd.accounts import HOUR_MS
from chatd.errors import BadFrame, Forbidden, NotFound, Unauthenticated, Unsupported
from chatd.model import Advance, Device, Identity, is_message_id, peer_of
from chatd.probing import Probe
from chatd.sending import make_draft
from chatd.transport import openapi, pages, shapes
from chatd.transport.api import Api, Call, Overview, no_content, pay, reply
from chatd.transport.problem import HEADERS
from chatd.transport.scraping import check_reader, exposition


class Handlers:
    """A method an endpoint; each takes a checked `Call`, and raises a Refusal where it cannot answer it."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._probe = Probe(api.store, ready=api.ready, now_s=api.now_s, on_error=api.on_store_error)
        self._document = protocol.encode(openapi.document())

    async def register(self, call: Call) -> web.Response:
        body: shapes.Register = call.body
        try:
            await self._api.accounts.register(body.user, body.password, body.invite)
        except Forbidden as exc:
            self._api.tell("register_refused", call.request, body.user, reason=exc.message)
            raise
        self._api.tell("registered", call.request, body.user)
        return reply(shapes.Registered(user=body.user), 201)

    async def login(self, call: Call) -> web.Response:
        body: shapes.Login = call.body
        try:
            token, who = await self._api.accounts.login(body.user, body.password, body.name)
        except Unauthenticated:
            self._api.tell("login_failed", call.request, body.user)
            raise
        self._api.tell("logged_in", call.request, who.user, device=who.device)
        return reply(shapes.LoggedIn(token=token, user=who.user, device=who.device, expires=who.expires_ms))

    async def logout(self, call: Call) -> web.Response:
        await self._api.accounts.logout(call.who)
        self._api.tell("device_revoked", call.request, call.who.user, device=call.who.device)
        return no_content()

    async def devices(self, call: Call) -> web.Response:
        return reply(_devices(await self._api.accounts.devices(call.who.user), call.who))

    async def revoke_device(self, call: Call) -> web.Response:
        device = call.request.match_info["device"]
        await self._api.accounts.revoke(call.who.user, device)
        self._api.tell("device_revoked", call.request, call.who.user, device=device)
        return no_content()

    async def send_message(self, call: Call) -> web.Response:
        api, body, user, received_s = self._api, call.body, call.who.user, self._api.now_s()
        draft = make_draft(
            user=user,
            to=body.to,
            conv=body.conv,
            id=_message_id(call.request.headers.get("Idempotency-Key"), body.id),
            body=body.body,
            body_bytes_max=api.limits.body_bytes_max,
            now_ms=api.now_ms(),
        )
        pay(api.sends, user, api.now_s(), "messages")
        peer = peer_of(draft.conv, user)
        if peer is None or not await api.accounts.known(peer):
            raise NotFound("no such user")
        traceparent = call.request.headers.get("traceparent", "")
        trace = None if api.tracer is None else api.tracer.begin(draft, received_s, traceparent=traceparent)
        appended = await api.sender.send(draft, trace)
        message = appended.message
        sent = shapes.SentMessage(id=message.id, conv=message.conv, seq=message.seq, ts=message.ts_ms)
        return reply(sent, 200 if appended.duplicate else 201)

    async def conversations(self, call: Call) -> web.Response:
        who, query = call.who, call.query
        page = await self._api.store.conversations(who.user, who.device, cursor=query.cursor, limit=query.limit)
        rows = tuple(protocol.conversation_row(view, who.user) for view in page.conversations)
        return reply(protocol.ConversationList(conversations=rows, cursor=page.cursor))

    async def history(self, call: Call) -> web.Response:
        store, conv, query = self._api.store, call.conv(), call.query
        if query.before is not None and query.after is not None:
            raise BadFrame("give `before` or `after`, not both")
        found = await store.read(conv, after=query.after, before=query.before, limit=query.limit)
        if query.after is None:
            more = bool(found) and (found[0].first or found[0].seq) > 1
        else:
            more = bool(found) and found[-1].seq < (await store.heads([conv]))[conv]
        return reply(protocol.messages(conv, found, call.who.user, more=more))

    async def marks(self, call: Call) -> web.Response:
        view = await self._api.store.marks(call.conv(), call.who.user)
        devices = {d: shapes.MarkPair(delivered=m.delivered, read=m.read) for d, m in view.devices.items()}
        peer = shapes.MarkPair(delivered=view.peer.delivered, read=view.peer.read)
        return reply(shapes.ConversationMarks(conv=view.conv, head=view.head, devices=devices, peer=peer))

    async def read(self, call: Call) -> web.Response:
        who, conv, seq = call.who, call.conv(), call.body.seq
        grown = await self._api.sender.mark(Advance(conv, who.user, who.device, delivered=seq, read=seq))
        return reply(shapes.UserMarks(conv=conv, delivered=grown.delivered, read=grown.read))

    async def blocks(self, call: Call) -> web.Response:
        return reply(shapes.Blocks(blocks=tuple(await self._api.accounts.blocks(call.who.user))))

    async def block(self, call: Call) -> web.Response:
        await self._api.accounts.block(call.who.user, call.request.match_info["user"])
        return no_content()

    async def unblock(self, call: Call) -> web.Response:
        await self._api.accounts.unblock(call.who.user, call.request.match_info["user"])
        return no_content()

    async def privacy(self, call: Call) -> web.Response:
        return reply(shapes.Privacy(last_seen=await self._api.accounts.shows_last_seen(call.who.user)))

    async def set_privacy(self, call: Call) -> web.Response:
        await self._api.accounts.set_shows_last_seen(call.who.user, call.body.last_seen)
        return no_content()

    async def push(self, call: Call) -> web.Response:
        return reply(shapes.Push(kinds=await self._api.subscriptions.kinds()))

    async def subscription(self, call: Call) -> web.Response:
        one = await self._api.subscriptions.of(call.who.user, call.who.device)
        return reply(shapes.DeviceSubscription(kind=one.kind, endpoint=one.endpoint, created=one.created_ms))

    async def subscribe(self, call: Call) -> web.Response:
        who, body = call.who, call.body
        await self._api.subscriptions.subscribe(who.user, who.device, body.kind, body.endpoint, body.keys)
        return no_content()

    async def unsubscribe(self, call: Call) -> web.Response:
        await self._api.subscriptions.unsubscribe(call.who.user, call.who.device)
        return no_content()

    async def account(self, call: Call) -> web.Response:
        who = call.who
        return reply(shapes.Account(user=who.user, device=who.device, admin=who.admin))

    async def admin_stats(self, call: Call) -> web.Response:
        return reply(shapes.Stats(processes=tuple(await self._overview.stats())))

    async def admin_users(self, call: Call) -> web.Response:
        query: shapes.UsersQuery = call.query
        rows = await self._api.accounts.list_users(query.after, query.limit)
        connected = await self._overview.connected([row.user for row in rows])
        return reply(
            shapes.Users(
                users=tuple(
                    shapes.UserRow(
                        user=row.user,
                        admin=row.admin,
                        disabled=row.disabled,
                        has_password=row.has_password,
                        created=row.created_ms,
                        connected=connected.get(row.user, 0),
                    )
                    for row in rows
                )
            )
        )

    async def admin_set_user(self, call: Call) -> web.Response:
        user, accounts = call.request.match_info["user"], self._api.accounts
        if user == call.who.user:
            raise Forbidden("nobody can lock itself out")
        await (accounts.disable(user) if call.body.disabled else accounts.enable(user))
        event = "admin_disable" if call.body.disabled else "admin_enable"
        self._api.tell(event, call.request, user, by=call.who.user)
        return no_content()

    async def admin_devices(self, call: Call) -> web.Response:
        user = call.request.match_info["user"]
        return reply(_devices(await self._api.accounts.tokens(user), call.who))

    async def admin_revoke(self, call: Call) -> web.Response:
        user, device = call.request.match_info["user"], call.request.match_info["device"]
        await self._api.accounts.revoke(user, device)
        self._api.tell("admin_revoke", call.request, user, device=device, by=call.who.user)
        return no_content()

    async def admin_invite(self, call: Call) -> web.Response:
        hours = call.body.hours
        code = await self._api.accounts.create_invite(hours=hours)
        self._api.tell("admin_create_invite", call.request, by=call.who.user)
        return reply(shapes.Invite(invite=code, expires=self._api.now_ms() + hours * HOUR_MS), 201)

    @property
    def _overview(self) -> Overview:
        if self._api.overview is None:
            raise Unsupported("this server has no overview")
        return self._api.overview

    async def openapi(self, call: Call) -> web.Response:
        return web.Response(body=self._document, content_type="application/json", headers=HEADERS)

    async def healthz(self, call: Call) -> web.Response:
        return reply(shapes.Health(status="ok"))

    async def readyz(self, call: Call) -> web.Response:
        await self._probe.check()
        return reply(shapes.Health(status="ok"))

    async def version(self, call: Call) -> web.Response:
        return reply(shapes.Version(name="chatd", version=__version__, protocol=protocol.SUBPROTOCOL))

    async def metrics(self, call: Call) -> web.Response:
        if not self._api.metrics_here:
            raise NotFound("metrics are at the address that server.metrics_listen names")
        check_reader(call.request)
        return exposition(self._api.registry)

    async def landing(self, call: Call) -> web.Response:
        if self._api.site is not None:
            return self._api.site.index(call.request)
        return web.Response(body=pages.LANDING, content_type="text/html", charset="utf-8", headers=pages.HEADERS)

    async def join(self, call: Call) -> web.Response:
        if self._api.site is not None:
            return self._api.site.index(call.request)
        return web.Response(body=pages.JOIN, content_type="text/html", charset="utf-8", headers=pages.HEADERS)


def _devices(devices: Sequence[Device], who: Identity) -> shapes.Devices:
    return shapes.Devices(
        devices=tuple(
            shapes.DeviceRow(
                device=one.device,
                name=one.name,
                created=one.created_ms,
                expires=one.expires_ms,
                current=(one.user, one.device) == (who.user, who.device),
            )
            for one in devices
        )
    )


def _message_id(header: str | None, field: str | None) -> str:
    """The id of a send. The header may be quoted, as the draft of Idempotency-Key has it."""
    key = header.strip().strip('"') if header is not None else None
    if key is not None and not is_message_id(key):
        raise BadFrame("Idempotency-Key: a UUID in lower-case canonical text is needed")
    if key is not None and field is not None and key != field:
        raise BadFrame("`id` and Idempotency-Key name two messages")
    if key is None and field is None:
        raise BadFrame("give the message an `id` (a UUID) or an Idempotency-Key")
    return field or key or ""
