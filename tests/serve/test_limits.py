"""Requests that are refused before the web framework reads them."""

import asyncio
import json

import pytest
from starlette.exceptions import HTTPException

from mlcls_jax.serve.limits import RequestLimits
from mlcls_jax.serve.service import Limits

LIMITS = Limits(body_bytes=10, requests=1, upload_seconds=0.05)


async def read(scope, receive, send):
    """An application that reads the body, answers, and waits for the client to leave."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    await receive()


async def ask(guard, receive, headers=()):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "headers": [(b"host", b"a:1"), *headers]}
    await guard(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


def body(*parts: bytes, then: float = 0):
    left = list(parts)

    async def receive():
        if not left:
            await asyncio.sleep(then)
            return {"type": "http.disconnect"}
        part = left.pop(0)
        return {"type": "http.request", "body": part, "more_body": bool(left)}

    return receive


async def never():
    await asyncio.sleep(60)


def test_a_request_within_the_limits_gets_safe_headers():
    # Ten bytes, and a client that stays for longer than an upload may take.
    answer = ask(RequestLimits(read, LIMITS, "policy"), body(b"12345", b"67890", then=0.1))
    status, headers, _ = asyncio.run(answer)
    assert status == 200
    assert headers[b"content-security-policy"] == b"policy"
    assert headers[b"x-content-type-options"] == b"nosniff"


@pytest.mark.parametrize(("receive", "status"), [(body(b"12345", b"678901"), 413), (never, 408)])
def test_too_large_or_slow_bodies_raise_in_the_application(receive, status):
    with pytest.raises(HTTPException) as refused:
        asyncio.run(ask(RequestLimits(read, LIMITS, ""), receive))
    assert refused.value.status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([(b"content-length", b"11")], 413),
        ([(b"origin", b"http://b:1")], 403),
        ([(b"origin", b"null")], 403),
        ([(b"origin", b"http://[")], 403),
        ([(b"origin", b"http://a:2")], 403),
        ([(b"origin", b"http://A:1")], 200),
    ],
)
def test_requests_refused_by_their_headers(headers, status):
    assert asyncio.run(ask(RequestLimits(read, LIMITS, ""), body(b""), headers))[0] == status


def test_too_many_requests_are_503_with_the_time_to_wait():
    async def two():
        guard = RequestLimits(read, LIMITS, "")
        first = asyncio.create_task(ask(guard, body(b"", then=0.05)))
        await asyncio.sleep(0)
        second = await ask(guard, body(b""))
        await first
        return second, await ask(guard, body(b""))

    (status, headers, text), again = asyncio.run(two())
    assert (status, headers[b"retry-after"], again[0]) == (503, b"1", 200)
    assert json.loads(text)["detail"] == "too many requests at the same time; try again"
