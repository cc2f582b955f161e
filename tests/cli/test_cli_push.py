"""``chatd push``: keys that last, and whether a notification arrives, with a server and without."""

from __future__ import annotations

import json

import aiohttp
from cli_rig import Place

from chatd.testing.push_service import FakePushService, Reply


async def test_the_keys_are_made_once_and_the_same_with_and_without_a_server(place: Place) -> None:
    assert (await place.run("init")).code == 0
    first = await place.run("push", "keys", "--json")
    assert first.code == 0, first.err
    kinds = json.loads(first.out)
    assert kinds["webpush"]["vapid"].startswith("B")  # an uncompressed point, in base64url
    assert "ntfy" in kinds
    async with place.serving():
        told = await place.run("push", "keys")
        assert f"webpush  vapid {kinds['webpush']['vapid']}\n" in told.out


async def test_a_test_notification_tells_what_came_of_it(place: Place) -> None:
    place.env["CHATD_PUSH_PRIVATE_ENDPOINTS"] = "true"
    async with FakePushService() as service, place.serving() as server:
        assert (await place.run("user", "add", "bob", "--no-password")).code == 0
        nobody = await place.run("push", "test", "bob")
        assert (nobody.code, nobody.out) == (1, "")
        assert "bob has no device that subscribed" in nobody.err
        token = (await place.run("token", "issue", "bob")).out.strip()
        phone = service.subscribe()
        async with (
            aiohttp.ClientSession() as http,
            http.put(
                f"{server.url}/v1/push/subscription",
                headers={"Authorization": f"Bearer {token}"},
                json={"endpoint": phone.endpoint, "keys": phone.keys},
            ) as answer,
        ):
            assert answer.status == 204
        good = await place.run("push", "test", "bob")
        assert good.code == 0, good.err
        assert good.out.startswith("webpush  ")
        assert "  delivered  " in good.out
        assert (await service.nth(1, to=phone)).payload["type"] == "test"
        service.script(Reply(410), to=phone)
        bad = await place.run("push", "test", "bob", "--json")
        assert bad.code == 1
        assert [one["result"] for one in json.loads(bad.out)] == ["gone"]
        assert "not every notification to bob was taken" in bad.err
        assert (await place.run("push", "test", "bob")).code == 1  # it was removed
