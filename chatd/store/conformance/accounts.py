"""Accounts, devices with their tokens, invites."""

from __future__ import annotations

import asyncio

from chatd.model import Account, Device
from chatd.store.conformance.kit import Backend, check, equal, expect, fill, present

HASH = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHQ$aGFzaA"


def account(user: str, *, admin: bool = False) -> Account:
    return Account(user, HASH, admin=admin, disabled=False, created_ms=1_000)


def secret(number: int) -> bytes:
    """32 bytes of hash, with a zero byte and bytes that are no UTF-8."""
    return bytes([0, 255, number]) + b"\xfe" * 29


@check
async def an_account_is_kept_as_given(backend: Backend) -> None:
    store = await backend.fresh()
    hosted = Account("carol", None, admin=False, disabled=False, created_ms=5)
    for one in (account("bob"), account("alice", admin=True), hosted):
        expect(await store.add_account(one), f"a free name: {one.user}")
        equal(await store.account(one.user), one, "the account as it was given")
    expect(not await store.add_account(account("bob", admin=True)), "a name is taken once")
    equal(await store.account("bob"), account("bob"), "a refused account changes nothing")
    equal(await store.account("nobody"), None, "no such account")
    equal((await store.counts()).users, 3, "users in counts")


@check
async def a_name_is_given_once_however_many_ask(backend: Backend) -> None:
    store = await backend.fresh()
    given = await asyncio.gather(*(store.add_account(account("alice")) for _ in range(10)))
    equal(sum(given), 1, "of ten that ask for a name at once, one gets it")


@check
async def accounts_come_in_pages(backend: Backend) -> None:
    store = await backend.fresh()
    names = ["a", "a-b", "a.b", "a_b", "ab", "b0", "b00"]  # in order of their bytes
    for name in reversed(names):
        await store.add_account(account(name))
    got: list[str] = []
    for _ in range(len(names)):
        page = [one.user for one in await store.accounts(after=got[-1] if got else "", limit=3)]
        expect(len(page) <= 3, "a page has at most its limit")
        got += page
    equal(got, names, "pages of accounts: each once, in order of name")


@check
async def an_account_can_change(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(account("alice"))
    await store.add_account(account("bob"))
    await store.put_device(Device("alice", "d1", "phone", 1_000), secret(1))
    expect(await store.set_password("alice", HASH + "2"), "a password is replaced")
    equal(present(await store.account("alice"), "alice").password_hash, HASH + "2", "the new hash")
    expect(await store.set_disabled("alice", True), "an account is disabled")
    _, owner = present(await store.identity(secret(1)), "a token of a disabled account is kept")
    expect(owner.disabled, "and its account says that it is disabled")
    expect(await store.set_disabled("alice", False), "an account is enabled again")
    _, owner = present(await store.identity(secret(1)), "the token works again")
    expect(not owner.disabled, "and its account is not disabled")
    for admin in (True, False):
        expect(await store.set_admin("alice", admin), "an account becomes an administrator's, and is so no longer")
        _, owner = present(await store.identity(secret(1)), "its token stays")
        equal((owner.admin, owner.disabled), (admin, False), "and its account says what it is")
    equal(await store.account("bob"), account("bob"), "another account is untouched")
    done = [await store.set_password("nobody", HASH), await store.set_disabled("nobody", True)]
    done += [await store.set_admin("nobody", True), await store.delete_account("nobody")]
    equal(done, [False] * 4, "no such user")


@check
async def a_deleted_account_leaves_its_name_and_messages(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(account("alice"))
    await store.put_device(Device("alice", "d1", "phone", 1_000), secret(1))
    await store.put_device(Device("bob", "d1", "phone", 1_000), None)
    await fill(store, 2)
    expect(await store.delete_account("alice"), "an account is deleted")
    equal(await store.account("alice"), None, "a deleted account is not there")
    equal(list(await store.accounts(limit=10)), [], "nor listed")
    expect(not await store.add_account(account("alice")), "its name stays taken")
    equal(await store.identity(secret(1)), None, "its tokens are gone")
    equal(list(await store.devices("alice")), [], "its devices are gone")
    expect(await store.device("bob", "d1") is not None, "another user's device of the same name is not")
    equal([m.sender for m in await store.read("alice:bob", limit=9)], ["alice"] * 2, "its messages stay")
    done = [await store.set_password("alice", HASH), await store.set_disabled("alice", True)]
    done += [await store.set_admin("alice", True), await store.delete_account("alice")]
    equal(done, [False] * 4, "deleted: no such user")


@check
async def a_token_names_its_device(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(account("alice"))
    await store.add_account(account("bob"))
    phone = Device("alice", "d1", "phone ☎", 2_000, expires_ms=9_000)
    tablet = Device("alice", "d2", "", 1_000)
    await store.put_device(phone, secret(1))
    await store.put_device(tablet, secret(2))
    await store.put_device(Device("bob", "d1", "phone", 3_000), secret(3))
    equal(await store.identity(secret(1)), (phone, account("alice")), "the device and user of a token")
    equal(await store.identity(secret(9)), None, "no such token")
    equal(list(await store.devices("alice")), [tablet, phone], "devices of a user, oldest first")
    equal(await store.device("alice", "d1"), phone, "one device")
    equal(await store.device("alice", "d9"), None, "no such device")
    renewed = Device("alice", "d1", "phone ☎", 2_000, expires_ms=99_000)
    await store.put_device(renewed, secret(4))
    equal(await store.identity(secret(1)), None, "a replaced token is gone")
    equal(await store.identity(secret(4)), (renewed, account("alice")), "the new one works")
    equal(len(await store.devices("alice")), 2, "replacing a token makes no second device")
    expect(await store.remove_device("alice", "d1"), "a device is revoked")
    expect(not await store.remove_device("alice", "d1"), "once")
    equal((await store.identity(secret(4)), await store.device("alice", "d1")), (None, None), "it is gone")
    expect(await store.identity(secret(3)) is not None, "another user's device of the same name is not")


@check
async def a_hosts_device_needs_no_token(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(account("alice"))
    mine = Device("alice", "d1", "phone", 1_000)
    await store.put_device(mine, secret(1))
    await store.put_device(Device("alice", "d1", "other", 5_000, expires_ms=6_000), None)
    equal(await store.identity(secret(1)), (mine, account("alice")), "an existing device is left as it is")
    hosted = Device("hosted", "web", "", 1_000)
    await store.put_device(hosted, None)
    equal(list(await store.devices("hosted")), [hosted], "a device of a user that only the host knows")
    expect(await store.remove_device("hosted", "web"), "which can be revoked")


@check
async def an_invite_is_good_once(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_account(account("taken"))
    await store.add_invite(secret(1), admin=True, expires_ms=5_000)
    await store.add_invite(secret(2), admin=False, expires_ms=5_000)
    equal(await store.redeem_invite(secret(9), account("alice"), 1_000), None, "no such invite")
    equal(await store.redeem_invite(secret(1), account("alice"), 5_001), None, "an expired invite")
    equal(await store.redeem_invite(secret(1), account("taken"), 1_000), False, "the name is taken")
    equal(await store.redeem_invite(secret(1), account("alice"), 4_999), True, "and the invite is still good")
    equal(await store.redeem_invite(secret(1), account("bob"), 1_000), None, "a used invite")
    equal(await store.account("alice"), account("alice", admin=True), "the invite makes an admin")
    equal(await store.account("bob"), None, "a used invite makes no account")
    equal(await store.redeem_invite(secret(2), account("carol"), 1_000), True, "a plain invite")
    equal(await store.account("carol"), account("carol"), "makes no admin")


@check
async def an_invite_is_good_once_however_many_use_it(backend: Backend) -> None:
    store = await backend.fresh()
    await store.add_invite(secret(1), admin=False, expires_ms=5_000)
    users = [f"user{n}" for n in range(10)]
    used = await asyncio.gather(*(store.redeem_invite(secret(1), account(u), 1_000) for u in users))
    equal(sum(one is True for one in used), 1, "of ten that use an invite at once, one gets in")
    equal([a.user for a in await store.accounts(limit=20)], [users[used.index(True)]], "one account is made")
