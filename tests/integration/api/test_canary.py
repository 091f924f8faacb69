"""What identifies a person or opens a door stands in no log line, metric or error of the edge."""

from __future__ import annotations

import json

import pytest

from tests.api import Edge, admin, person, service

PHONE = "+49 170 5550199"
TEXT = "CANARY-text-8f14"
LINK = "/canary-link-8f14"


async def test_no_token_number_or_text_leaves_by_logs_metrics_or_errors(
    edge: Edge, capfd: pytest.CaptureFixture[str]
) -> None:
    token = service()
    client = edge.client(token)
    good = {"title": TEXT, "message": TEXT, "user_id": PHONE, "action_url": LINK, "metadata": {"k": TEXT}}
    told: list[str] = []

    made = await client.post("/api/v1/notifications", json=good, headers={"Idempotency-Key": TEXT})
    assert made.status_code == 201
    refusals = [
        await client.post(
            "/api/v1/notifications", json=good | {"title": [TEXT], "metadata": TEXT, "channels": [TEXT]}
        ),
        await client.post("/api/v1/notifications", json=good | {"action_url": f"javascript:{TEXT}"}),
        await client.post("/api/v1/notifications", json=good | {"topic": TEXT + " "}),
        await client.post(
            "/api/v1/notifications", json=good | {"message": f"{TEXT} 2"}, headers={"Idempotency-Key": TEXT}
        ),
        await client.post("/api/v1/notifications", content=json.dumps(good)[:-1].encode() + TEXT.encode()),
        await client.get("/api/v1/presence", params={"user_id": f"{PHONE}\n"}),
        await client.get("/api/v1/notifications", params={"cursor": TEXT + "!"}),
        await client.get("/api/v1/notifications/" + TEXT),
        await edge.client(token + "x").get("/api/v1/notifications"),
        await edge.client(person(PHONE)).post("/internal/broadcast", json=good),
        await edge.client("ck_0123456789abcdef_" + TEXT.ljust(43, "x")).get("/api/v1/notifications"),
    ]
    for answer in refusals:
        assert answer.status_code >= 400
        told.append(answer.text + str(answer.headers))
    edge.services.ingest._queue = None  # type: ignore[assignment] # whatever breaks, breaks here
    broken = await client.post("/api/v1/notifications", json=good)
    assert broken.status_code == 500
    told.append(broken.text)
    told.append((await edge.client(admin()).get("/metrics")).text)
    out, err = capfd.readouterr()
    told += [out, err]

    assert "request_failed" in out + err
    for secret in (token, token.split(".")[2], PHONE, "5550199", TEXT, LINK):
        for text in told:
            assert secret not in text
