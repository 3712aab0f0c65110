"""Requests that are refused before the web framework reads them."""

import asyncio
import dataclasses
import json

import pytest
from starlette.exceptions import HTTPException

from mlcls_jax.serve.limits import Limits, RequestLimits

TOKEN = "a-token-of-20-chars-"
LIMITS = Limits(body_bytes=10, requests=1, upload_seconds=0.05)


async def read(scope, receive, send):
    """An application that reads the body, answers, and waits for the client to leave."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})
    await receive()


async def ask(guard, receive, headers=(), path="/api/predict"):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "path": path, "headers": [(b"host", b"a:1"), *headers]}
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
        await asyncio.sleep(0.01)
        second = await ask(guard, body(b""))
        await first
        return second, await ask(guard, body(b""))

    (status, headers, text), again = asyncio.run(two())
    assert (status, headers[b"retry-after"], again[0]) == (503, b"1", 200)
    assert json.loads(text)["detail"] == "too many requests at the same time; try again"


def test_requests_that_are_still_arriving_take_no_place():
    async def two():
        guard = RequestLimits(read, dataclasses.replace(LIMITS, upload_seconds=0.2), "")
        slow = [asyncio.create_task(ask(guard, never)) for _ in range(5)]
        await asyncio.sleep(0.01)
        answer = await ask(guard, body(b"1"))
        await asyncio.gather(*slow, return_exceptions=True)
        return answer[0]

    assert asyncio.run(two()) == 200


def test_the_bytes_of_all_requests_are_limited():
    async def two():
        guard = RequestLimits(read, dataclasses.replace(LIMITS, requests=2, arriving_bytes=12), "")
        first = asyncio.create_task(ask(guard, body(b"1234567", b"", then=0.05)))
        await asyncio.sleep(0.01)
        with pytest.raises(HTTPException) as refused:
            await ask(guard, body(b"123456"))
        await first
        return refused.value.status_code, (await ask(guard, body(b"1234567")))[0]

    assert asyncio.run(two()) == (503, 200)


@pytest.mark.parametrize(
    ("path", "given", "status"),
    [
        ("/api/predict", None, 401),
        ("/api/predict", b"Bearer another-token-123", 401),
        ("/api/predict", "Bearer tök".encode(), 401),
        ("/api/predict", b"Basic " + TOKEN.encode(), 401),
        ("/openapi.json", None, 401),
        ("/api/predict", b"bearer " + TOKEN.encode(), 200),
        ("/", None, 200),
        ("/health", None, 200),
        ("/ready", None, 200),
    ],
)
def test_a_token_is_asked_for(path, given, status):
    guard = RequestLimits(read, LIMITS, "", TOKEN)
    headers = [(b"authorization", given)] if given else []
    assert asyncio.run(ask(guard, body(b""), headers, path))[0] == status


def test_a_server_that_stops_is_alive_but_not_ready_and_closes_connections():
    guard = RequestLimits(read, LIMITS, "", is_stopping=lambda: True)
    for path, expected in (("/health", 200), ("/ready", 503), ("/api/predict", 200)):
        status, headers, _ = asyncio.run(ask(guard, body(b""), path=path))
        assert (status, headers[b"connection"]) == (expected, b"close")


def test_a_request_refused_before_its_body_closes_the_connection():
    guard, sent = RequestLimits(read, LIMITS, ""), [(b"content-length", b"11")]
    assert asyncio.run(ask(guard, never, sent))[1][b"connection"] == b"close"
    status, headers, _ = asyncio.run(ask(guard, body(b"1"), [(b"content-length", b"1")]))
    assert status == 200 and b"connection" not in headers


def test_a_request_whose_client_leaves_is_cancelled():
    ended = []

    async def slow(scope, receive, send):
        await receive()
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(scope["path"])

    async def sent(_):
        pass

    async def leave():
        scope = {"type": "http", "path": "/x", "headers": [(b"content-length", b"1")]}
        await RequestLimits(slow, LIMITS, "")(scope, body(b"1", then=0.01), sent)

    asyncio.run(asyncio.wait_for(leave(), 5))
    assert ended == ["/x"]
