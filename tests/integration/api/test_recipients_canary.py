"""Addresses go in and never come out: not in answers, logs, metrics or errors, and not in a dump of the database."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Sequence

import pytest

from tests.api import Edge, admin, person, service
from tests.postgres import PostgresServer

ADA = "/api/v1/recipients/ada"

#: What is sent in, and the part of it that nobody may read anywhere else.
CANARIES = {
    "email": ("canary.8f14@mail8f14.example", ["canary.8f14", "mail8f14"]),
    "sms": ("+49 170 5550188", ["5550188", "+491705550188"]),
    "whatsapp": ("+491705550177", ["5550177"]),
    "telegram": ("-100777888999", ["777888999"]),
    "webhook": ("https://hooks.example.com/path8f14?token=t0k8f14", ["path8f14", "t0k8f14"]),
}
SECRETS = [part for _, parts in CANARIES.values() for part in parts]


def leaked(text: str, more: Sequence[str] = ()) -> list[str]:
    """What stands in a text, plainly or in the hex of a bytea."""
    return [
        one for one in [*SECRETS, *more] if one in text or one.encode().hex() in text or one.upper() in text
    ]


async def dump(postgres: PostgresServer, dsn: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        [str(postgres.cluster.programs / "pg_dump"), "--data-only", dsn],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


async def test_addresses_are_never_answered_logged_measured_or_readable_at_rest(
    edge: Edge, database: str, postgres: PostgresServer, capfd: pytest.CaptureFixture[str]
) -> None:
    client, ada = edge.client(service()), edge.client(person("ada"))
    inline = {
        "user_id": "bob",
        "email": CANARIES["email"][0],
        "phone": CANARIES["sms"][0],
        "telegram": CANARIES["telegram"][0],
        "webhook": CANARIES["webhook"][0],
    }
    draft = {"title": "Hello", "message": "News.", "channels": ["email", "sms", "webhook"]}
    answers = [
        await client.post("/api/v1/notifications", json={**draft, "recipients": [inline]}),
        await ada.put(ADA, json={"name": "Ada"}),
    ]
    for channel, (value, _) in CANARIES.items():
        body = {"channel": channel, "value": value}
        answers.append(await ada.post(f"{ADA}/addresses", json=body))
        [*_, address] = (await ada.get(f"{ADA}/addresses")).json()["addresses"]
        one = f"{ADA}/addresses/{address['id']}"
        answers += [
            await ada.post(f"{ADA}/addresses", json=body | {"value": value + "\r\n"}),
            await ada.post(f"{ADA}/addresses", json=body | {"value": "x " + value}),
            await ada.post(f"{ADA}/addresses", json=body | {"channel": "pigeon"}),
            await client.put(ADA, json={"addresses": [body, body | {"value": [value]}]}),
            await client.post(
                "/api/v1/notifications",
                json={**draft, "recipients": [{"user_id": "x", "email": f"<{value}>", "phone": f"{value}x"}]},
            ),
            await ada.post(f"{one}/verification"),
            await ada.post(f"{one}/verification/confirm", json={"code": "000000"}),
            await ada.patch(one, json={"paused": True}),
        ]
    answers += [await client.get(ADA), await client.get("/api/v1/recipients")]
    assert {answer.status_code for answer in answers} >= {200, 201, 202, 422}
    assert 500 not in {answer.status_code for answer in answers}

    assert [answer.text for answer in answers if leaked(answer.text + str(answer.headers))] == []
    assert leaked((await edge.client(admin()).get("/metrics")).text) == []
    assert leaked("".join(capfd.readouterr())) == []
    stored = await dump(postgres, database)
    assert "+49***88" in stored, "it is the dump, and the hint is in it"
    assert leaked(stored) == []
    assert "Your code is" not in stored


async def test_of_a_person_who_is_erased_not_even_a_hint_is_left(
    edge: Edge, database: str, postgres: PostgresServer
) -> None:
    client = edge.client(service())
    addresses = [{"channel": channel, "value": value} for channel, (value, _) in CANARIES.items()]
    made = await client.put(ADA, json={"name": "Canary Name 8f14", "addresses": addresses})
    hints = [address["hint"] for address in made.json()["addresses"]]
    body = {"title": "Hello", "message": "News.", "channels": ["email"], "recipients": ["ada"]}
    await client.post("/api/v1/notifications", json=body)
    lookups = [row["lookup"].hex() for row in await edge.rows("SELECT lookup FROM recipient_addresses")]
    before = await dump(postgres, database)

    assert (await client.delete(ADA)).status_code == 204

    after = await dump(postgres, database)
    traces = ["Canary Name 8f14", *hints, *lookups]
    assert all(trace in before for trace in traces)
    assert [trace for trace in traces if trace in after] == []
    assert leaked(after) == []
