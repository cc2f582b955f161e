"""Accounts over the memory store: who gets in, what ends a token, and who is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatd.accounts import DAY_MS, HOUR_MS, Accounts
from chatd.errors import BadFrame, Forbidden, NotFound, Unauthenticated
from chatd.jwt_keys import Claims, JwtKeys
from chatd.model import Account, Identity
from chatd.passwords import Passwords
from chatd.settings import AccountSettings
from chatd.store.memory import MemoryStore

T0 = 1_700_000_000_000


class Host(JwtKeys):
    """A host whose tokens are written ``user.device.expires_ms``."""

    def __init__(self) -> None:
        super().__init__({}, audience="chatd", issuer="host")

    def verify(self, token: str, now_ms: int) -> Claims:
        user, device, expires_ms = token.split(".")
        if int(expires_ms) <= now_ms:
            raise Unauthenticated("the token has expired")
        return Claims(user, device, int(expires_ms))


class Town:
    """A store with its clock, a fast hasher that counts, and a record of who was revoked."""

    def __init__(self) -> None:
        self.store = MemoryStore("town")
        self.now_ms = T0
        self.passwords = Counting()
        self.revoked: list[tuple[str, str | None, int]] = []

    def accounts(self, *, loopback: bool = True, jwt: JwtKeys | None = None, **settings: Any) -> Accounts:
        return Accounts(
            self.store,
            AccountSettings(**settings),
            now_ms=lambda: self.now_ms,
            loopback=loopback,
            passwords=self.passwords,
            jwt=jwt,
            on_revoked=lambda user, device, code: self.revoked.append((user, device, code)),
            known_users_cached_max=3,
        )


class Counting(Passwords):
    """Cheap parameters; ``checked`` has the hash that each check was made against."""

    def __init__(self, time_cost: int = 1) -> None:
        super().__init__(time_cost=time_cost, memory_kib=8)
        self.checked: list[str | None] = []

    async def verify(self, password: str, password_hash: str | None) -> bool:
        self.checked.append(password_hash)
        return await super().verify(password, password_hash)


@pytest.fixture
async def town() -> AsyncIterator[Town]:
    made = Town()
    await made.store.open()
    yield made
    await made.store.close()
    made.passwords.close()


async def test_register_login_and_use_the_token(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    token, identity = await accounts.login("alice", "correct horse", "phone")
    assert len(token) == 43
    assert identity == Identity("alice", identity.device, None, False)
    assert await accounts.authenticate(token) == identity
    (device,) = await accounts.devices("alice")
    assert (device.name, device.device, device.created_ms, device.expires_ms) == ("phone", identity.device, T0, None)


async def test_no_secret_is_stored(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    token, _ = await accounts.login("alice", "correct horse")
    invite = await accounts.create_invite()
    kept = repr(vars(town.store))
    assert "argon2id" in kept
    assert not [secret for secret in ("correct horse", token, invite) if secret in kept]


async def test_every_failed_login_is_one_answer_after_one_check(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    await accounts.register("mallory", "correct horse")
    await accounts.disable("mallory")
    await accounts.add_user("robot")
    answers = set()
    for user, password in (
        ("alice", "wrong horse"),
        ("alice", "correct horse" + "x" * 2_000),
        ("nobody", "correct horse"),
        ("No Name!", "correct horse"),
        ("mallory", "correct horse"),
        ("robot", ""),
        ("robot", "correct horse"),
    ):
        with pytest.raises(Unauthenticated) as refused:
            await accounts.login(user, password)
        answers.add((refused.value.message, refused.value.retry_after_ms))
    assert answers == {("wrong user name or password", None)}
    assert len(town.passwords.checked) == 7, "every one of them costs exactly one check"


@pytest.mark.parametrize(
    ("setting", "loopback", "becomes"),
    [
        ("auto", True, "open"),
        ("auto", False, "invite"),
        ("open", False, "open"),
        ("invite", True, "invite"),
        ("closed", True, "closed"),
    ],
)
async def test_the_registration_rule(town: Town, setting: Any, loopback: bool, becomes: str) -> None:
    accounts = town.accounts(registration=setting, loopback=loopback)
    assert accounts.registration == becomes
    if becomes == "open":
        await accounts.register("alice", "correct horse")
        assert await accounts.known("alice")
    else:
        with pytest.raises(Forbidden):
            await accounts.register("alice", "correct horse")
        assert not await accounts.known("alice")


async def test_an_invite_lets_one_person_in_until_its_hour(town: Town) -> None:
    accounts = town.accounts(registration="invite")
    first, second, late = [await accounts.create_invite(hours=2) for _ in range(3)]
    await accounts.register("alice", "correct horse", first)
    for invite in (first, "guessed", second[:-1]):
        with pytest.raises(Forbidden, match="unknown, used or expired"):
            await accounts.register("bob", "correct horse", invite)
    with pytest.raises(Forbidden, match="taken"):
        await accounts.register("alice", "another horse", second)
    town.now_ms += 2 * HOUR_MS - 1
    await accounts.register("bob", "correct horse", second)
    town.now_ms += 1
    with pytest.raises(Forbidden, match="unknown, used or expired"):
        await accounts.register("carol", "correct horse", late)
    assert [u.user for u in await accounts.list_users()] == ["alice", "bob"]


async def test_the_first_administrator_comes_by_an_invite_that_is_made_once_there_is_nobody(town: Town) -> None:
    accounts = town.accounts(loopback=False)
    invite = await accounts.first_admin_invite()
    assert invite is not None
    await accounts.register("root", "correct horse", invite)
    assert [(u.user, u.admin) for u in await accounts.list_users()] == [("root", True)]
    assert await accounts.first_admin_invite() is None
    assert (await accounts.login("root", "correct horse"))[1].admin


async def test_closed_means_closed_also_to_invites(town: Town) -> None:
    invite = await town.accounts(registration="invite").create_invite()
    accounts = town.accounts(registration="closed")
    with pytest.raises(Forbidden, match="closed"):
        await accounts.register("alice", "correct horse", invite)
    with pytest.raises(Forbidden, match="closed"):
        await accounts.create_invite()
    assert await accounts.first_admin_invite() is None
    await accounts.add_user("alice", "correct horse")
    assert (await accounts.login("alice", "correct horse"))[1].user == "alice"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("Alice", "correct horse"),
        ("", "correct horse"),
        ("a:b", "correct horse"),
        ("alice", "short"),
        ("alice", "x" * 1025),
    ],
)
async def test_a_name_or_password_without_the_form_is_refused(town: Town, user: str, password: str) -> None:
    with pytest.raises(BadFrame):
        await town.accounts().register(user, password)
    assert await town.accounts().list_users() == []


async def test_a_token_ends_at_its_hour(town: Town) -> None:
    accounts = town.accounts(token_days=1)
    await accounts.register("alice", "correct horse")
    token, identity = await accounts.login("alice", "correct horse")
    assert identity.expires_ms == T0 + DAY_MS
    town.now_ms = T0 + DAY_MS - 1
    assert await accounts.authenticate(token) == identity
    town.now_ms += 1
    with pytest.raises(Unauthenticated, match="expired"):
        await accounts.authenticate(token)


@pytest.mark.parametrize("token", ["", "x", "é", "\ud800", "a.b.c", "x" * 9_000])
async def test_any_other_text_is_no_token(town: Town, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await town.accounts().authenticate(token)


async def test_logout_and_revoke_end_one_device_and_tell_its_sockets(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    (one, first), (two, second), (three, third) = [await accounts.login("alice", "correct horse") for _ in range(3)]
    await accounts.logout(first)
    await accounts.revoke("alice", second.device)
    for token in (one, two):
        with pytest.raises(Unauthenticated):
            await accounts.authenticate(token)
    assert await accounts.authenticate(three) == third
    assert town.revoked == [("alice", first.device, 4401), ("alice", second.device, 4401)]
    for user, device in (("alice", first.device), ("bob", third.device)):
        with pytest.raises(NotFound):
            await accounts.revoke(user, device)


async def test_disable_locks_out_and_enable_lets_the_same_token_in(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    token, identity = await accounts.login("alice", "correct horse")
    await accounts.disable("alice")
    assert town.revoked == [("alice", None, 4403)]
    with pytest.raises(Forbidden):
        await accounts.authenticate(token)
    with pytest.raises(Forbidden):
        await accounts.issue_token("alice")
    await accounts.enable("alice")
    assert await accounts.authenticate(token) == identity


async def test_a_new_password_ends_every_device(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    tokens = [(await accounts.login("alice", "correct horse"))[0], await accounts.issue_token("alice", "robot")]
    await accounts.set_password("alice", "battery staple")
    assert town.revoked == [("alice", None, 4401)]
    for token in tokens:
        with pytest.raises(Unauthenticated):
            await accounts.authenticate(token)
    with pytest.raises(Unauthenticated):
        await accounts.login("alice", "correct horse")
    assert (await accounts.login("alice", "battery staple"))[1].user == "alice"
    with pytest.raises(BadFrame):
        await accounts.set_password("alice", "short")


async def test_a_login_that_was_under_way_when_the_password_changed_opens_nothing(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    checked, go_on = asyncio.Event(), asyncio.Event()
    verify = town.passwords.verify

    async def slow(password: str, password_hash: str | None) -> bool:
        matches = await verify(password, password_hash)
        checked.set()
        await go_on.wait()
        return matches

    town.passwords.verify = slow  # type: ignore[method-assign]
    login = asyncio.ensure_future(accounts.login("alice", "correct horse"))
    await checked.wait()
    await accounts.set_password("alice", "battery staple")
    go_on.set()
    with pytest.raises(Unauthenticated):
        await login
    assert await accounts.devices("alice") == []


async def test_a_login_renews_a_hash_of_older_parameters(town: Town) -> None:
    await town.accounts().register("alice", "correct horse")
    before = await stored_hash(town)
    town.passwords.close()
    town.passwords = Counting(time_cost=2)
    accounts = town.accounts()
    token, _ = await accounts.login("alice", "correct horse")
    after = await stored_hash(town)
    assert ("t=1" in before, "t=2" in after) == (True, True)
    assert (await accounts.authenticate(token)).user == "alice"
    assert town.revoked == []
    await accounts.login("alice", "correct horse")
    assert await stored_hash(town) == after


async def stored_hash(town: Town) -> str:
    account = await town.store.account("alice")
    assert account is not None
    assert account.password_hash is not None
    return account.password_hash


async def test_a_deleted_user_is_gone_and_the_name_stays_taken(town: Town) -> None:
    accounts = town.accounts()
    await accounts.register("alice", "correct horse")
    token, _ = await accounts.login("alice", "correct horse")
    await accounts.delete_user("alice")
    assert town.revoked == [("alice", None, 4401)]
    assert (accounts.known_cached("alice"), await accounts.known("alice")) == (None, False)
    with pytest.raises(Unauthenticated):
        await accounts.authenticate(token)
    with pytest.raises(Forbidden, match="taken"):
        await accounts.register("alice", "correct horse")


async def test_devices_are_bounded_and_expired_ones_make_room(town: Town) -> None:
    accounts = town.accounts(devices_per_user_max=2, token_days=1)
    await accounts.register("alice", "correct horse")
    await accounts.issue_token("alice", "robot", days=0)
    await accounts.login("alice", "correct horse")
    with pytest.raises(Forbidden, match="too many devices"):
        await accounts.login("alice", "correct horse")
    town.now_ms += DAY_MS
    _, identity = await accounts.login("alice", "correct horse", "new")
    assert [d.name for d in await accounts.devices("alice")] == ["robot", "new"]
    both = await asyncio.gather(
        accounts.revoke("alice", identity.device),
        *(accounts.login("alice", "correct horse") for _ in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(end, Forbidden) for end in both) == 3
    assert len(await accounts.devices("alice")) == 2


async def test_known_users_are_cached_within_a_bound(town: Town) -> None:
    accounts = town.accounts()
    for user in ("ann", "ben", "cid", "dan"):
        await accounts.register(user, "correct horse")
    assert [accounts.known_cached(u) for u in ("ann", "ben", "cid", "dan")] == [None, True, True, True]
    assert [accounts.known_cached(u) for u in ("eve", "Not A Name")] == [None, False]
    assert await accounts.known("ann")
    assert [accounts.known_cached(u) for u in ("ann", "ben")] == [True, None]
    assert not await accounts.known("eve")
    assert not await accounts.known("Not A Name")


async def test_blocks(town: Town) -> None:
    accounts = town.accounts()
    for user in ("alice", "bob", "carol"):
        await accounts.register(user, "correct horse")
    await accounts.block("alice", "carol")
    await accounts.block("alice", "bob")
    await accounts.block("alice", "bob")
    assert await accounts.blocks("alice") == ["bob", "carol"]
    await accounts.unblock("alice", "carol")
    await accounts.unblock("alice", "carol")
    assert (await accounts.blocks("alice"), await accounts.blocks("bob")) == (["bob"], [])
    with pytest.raises(Forbidden):
        await accounts.block("alice", "alice")
    for peer in ("nobody", "Not A Name"):
        with pytest.raises(NotFound):
            await accounts.block("alice", peer)
    with pytest.raises(NotFound):
        await accounts.unblock("alice", "Not A Name")


async def test_a_host_s_token_makes_account_and_device_at_first_sight(town: Town) -> None:
    accounts = town.accounts(jwt=Host())
    token = f"alice.phone.{T0 + 1000}"
    assert await accounts.authenticate(token) == Identity("alice", "phone", T0 + 1000, False)
    assert await accounts.authenticate(token) == Identity("alice", "phone", T0 + 1000, False)
    assert [d.device for d in await accounts.devices("alice")] == ["phone"]
    assert await town.store.account("alice") == Account("alice", None, False, False, T0)
    with pytest.raises(Unauthenticated):
        await accounts.login("alice", "")
    await accounts.disable("alice")
    with pytest.raises(Forbidden):
        await accounts.authenticate(token)
    town.now_ms += 1000
    with pytest.raises(Unauthenticated, match="expired"):
        await accounts.authenticate(token)


async def test_two_first_sights_at_once_are_one_account(town: Town) -> None:
    accounts = town.accounts(jwt=Host(), devices_per_user_max=1)
    both = await asyncio.gather(*(accounts.authenticate(f"alice.phone.{T0 + 1}") for _ in range(5)))
    assert set(both) == {Identity("alice", "phone", T0 + 1, False)}
    with pytest.raises(Forbidden, match="too many devices"):
        await accounts.authenticate(f"alice.tablet.{T0 + 1}")


async def test_a_host_vouches_for_every_name_and_a_deleted_user_stays_out(town: Town) -> None:
    accounts = town.accounts(jwt=Host())
    assert [accounts.known_cached(u) for u in ("never-seen", "Not A Name")] == [True, False]
    assert await accounts.known("never-seen")
    await accounts.authenticate(f"alice.phone.{T0 + 1}")
    await accounts.delete_user("alice")
    with pytest.raises(Forbidden):
        await accounts.authenticate(f"alice.phone.{T0 + 1}")


async def test_own_tokens_work_beside_a_host_s(town: Town) -> None:
    accounts = town.accounts(jwt=Host())
    await accounts.add_user("robot")
    token = await accounts.issue_token("robot", "job", days=3)
    assert (await accounts.authenticate(token)).expires_ms == T0 + 3 * DAY_MS
    assert [d.name for d in await accounts.tokens("robot")] == ["job"]


async def test_administration_of_a_user_that_is_not_there(town: Town) -> None:
    accounts = town.accounts()
    for work in (
        accounts.set_password("nobody", "correct horse"),
        accounts.disable("nobody"),
        accounts.enable("nobody"),
        accounts.delete_user("nobody"),
        accounts.issue_token("nobody"),
        accounts.tokens("nobody"),
    ):
        with pytest.raises(NotFound):
            await work
    assert town.revoked == []


async def test_numbers_out_of_bounds_are_refused(town: Town) -> None:
    accounts = town.accounts()
    await accounts.add_user("alice", admin=True)
    for work in (
        accounts.create_invite(hours=0),
        accounts.create_invite(hours=9_000),
        accounts.issue_token("alice", days=-1),
        accounts.issue_token("alice", days=40_000),
    ):
        with pytest.raises(BadFrame):
            await work
    assert await accounts.devices("alice") == []
