"""The endpoint in this process: the same answers as `predict`, and refused requests."""

import copy
import dataclasses
import hashlib
import io
import itertools
import re
import signal
import socket
import threading
import zlib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from mlcls_jax.config import Augment
from mlcls_jax.data.images.decoding import image_libraries
from mlcls_jax.data.images.transforms import Box
from mlcls_jax.data.loaders.loader import make_reader
from mlcls_jax.serve.__main__ import listen, parse
from mlcls_jax.serve.answers import Part
from mlcls_jax.serve.app import _part, make_app
from mlcls_jax.serve.batching import Batcher
from mlcls_jax.serve.decoders import DecodedImage, Decoders
from mlcls_jax.serve.image_worker import answer_to
from mlcls_jax.serve.service import Decoded

HERE = "http://127.0.0.1"


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service, "demo"), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images in three formats and many sizes."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    paths = []
    for number, ending in enumerate(("jpg", "png", "webp") * 2):
        small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        paths.append(folder / f"{number}.{ending}")
        Image.fromarray(small).resize((90 + 40 * number, 200)).save(paths[-1])
    return paths


def fields(*paths):
    return [("images", (path.name, path.read_bytes())) for path in paths]


def png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_probabilities_are_those_of_predict(client, run, images):
    paths = list(map(str, images))
    reader = make_reader(run.config.data, 3, len(paths))
    logits, _ = run.outputs(paths, reader)
    expected = run.decision_rule.probabilities(logits)
    rows = []
    for some in (images[:4], images[4:]):
        rows += client.post("/api/predict", files=fields(*some)).json()
    assert [row["filename"] for row in rows] == [path.name for path in images]
    got = np.array([[one["probability"] for one in row["classes"]] for row in rows])
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for row, present in zip(rows, run.decision_rule.present(expected), strict=True):
        assert [one["present"] for one in row["classes"]] == present.tolist()
        assert [one["threshold"] for one in row["classes"]] == [0.01, 0.99, 0.5]
        assert [one["name"] for one in row["classes"]] == list(run.classes)


def test_metrics_count_answers_refusals_and_images(client, images):
    def samples() -> dict[tuple, float]:
        text = client.get("/metrics").text
        families = text_string_to_metric_families(text)
        return {(x.name, *x.labels.values()): x.value for f in families for x in f.samples}

    assert client.get("/metrics").headers["content-type"].startswith("text/plain; version=")
    before = samples()
    client.post("/api/predict", files=fields(*images[:3]))
    client.post("/api/predict", files=[("images", ("x.jpg", b"no image"))])
    client.get("/made/up", headers={"Origin": "http://other"})
    client.get("/health")
    after = samples()
    counts = {key: after[key] - before.get(key, 0) for key in after if key[0].endswith("_total")}
    assert {key: count for key, count in counts.items() if count} == {
        ("mlcls_jax_requests_total", "/metrics", "200"): 1,
        ("mlcls_jax_requests_total", "/api/predict", "200"): 1,
        ("mlcls_jax_requests_total", "/api/predict", "422"): 1,
        ("mlcls_jax_requests_total", "other", "403"): 1,
        ("mlcls_jax_images_total",): 3,
    }
    key = ("mlcls_jax_request_seconds_count", "/api/predict")
    assert after[key] - before.get(key, 0) == 2
    assert after["mlcls_jax_open_requests",] == 1  # this one
    assert after["mlcls_jax_images_in_progress",] == 0


def test_concurrent_requests_are_one_call(client, service, images, monkeypatch):
    calls, call = [], service._call
    monkeypatch.setattr(service.batcher, "_max_wait", 5.0)  # until there are 16
    monkeypatch.setattr(
        service.batcher, "_call", lambda items, size: calls.append(size) or call(items, size)
    )
    sent = list(itertools.islice(itertools.cycle(images), 16))
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda path: client.post("/api/predict", files=fields(path)), sent))
    assert calls == [16]
    for path, answer in zip(sent, answers, strict=True):
        assert answer.json()[0]["filename"] == path.name
    assert answers[0].json() == answers[6].json() != answers[1].json()


def test_an_explanation_is_the_map_of_the_class(client, run, images):
    answers = [
        client.post(
            "/api/explain",
            files={"image": (images[0].name, images[0].read_bytes())},
            data={"class_name": name},
        ).json()
        for name in run.classes
    ]
    assert [answer["explained"]["name"] for answer in answers] == list(run.classes)
    maps = np.array([answer["map"] for answer in answers])
    assert maps.shape == (3, 2, 2) and (maps >= 0).all() and maps.any()
    assert answers[0]["part"] == {"top": 0, "left": 0, "height": 1, "width": 1}


def test_the_map_of_a_letterbox_extends_beyond_the_image(service):
    letterbox = Augment(eval_resize="letterbox")
    settings = dataclasses.replace(service.decoders.settings, augment=letterbox)
    answer, pixels = answer_to(png(30, 60), 10_000, settings)
    assert pixels is not None
    image = DecodedImage(pixels, Box(*answer["box"]), answer["height"], answer["width"])
    assert _part(Decoded(image, 0)) == Part(top=-0.5, left=0, height=2, width=1)


@pytest.mark.parametrize(
    ("sent", "status", "line"),
    [
        ({"files": {"images": ("a.txt", b"words")}}, 422, "a.txt: it is not JPEG, PNG"),
        ({"files": {"images": ("a.jpg", b"")}}, 422, "a.jpg: the file is empty"),
        ({"files": {"images": ("a.png", png(9, 9)[:40])}}, 422, "a.png: its PNG data"),
        ({"files": {"images": ("a.bmp", bytes(100_001))}}, 413, "a.bmp: an image may have at most"),
        ({"files": {"images": ("a.bmp", bytes(300_001))}}, 413, "a request may have at most"),
        ({"files": [("images", ("a", b"x"))] * 5}, 413, "images: a request may contain at most 4"),
        ({"files": {"others": ("a.png", png(9, 9))}}, 422, "images: "),
        ({"data": {"images": "words"}}, 422, "images.0: "),
        ({"json": {"images": []}}, 422, "images: "),
        ({"content": b"--x", "headers": {"content-type": "multipart/form-data"}}, 400, ""),
        ({"files": {"images": ("a.png", png(9, 9))}, "headers": {"host": "evil.test"}}, 400, ""),
        (
            {"files": {"images": ("a.png", b"")}, "headers": {"origin": "http://evil.test"}},
            403,
            "requests from pages of other sites",
        ),
    ],
)
def test_a_refusal_is_one_line(client, sent, status, line):
    answer = client.post("/api/predict", **sent)
    assert answer.status_code == status
    if line:
        detail = answer.json()["detail"]
        assert detail.startswith(line) and "\n" not in detail


def test_a_body_without_a_length_is_limited(client):
    def parts():
        yield b'--x\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n'
        yield from itertools.repeat(bytes(50_000), 7)

    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert client.post("/api/predict", content=parts(), headers=headers).status_code == 413


def test_a_decompression_bomb_is_refused_by_its_header(client):
    bomb = bytearray(png(1, 1))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with image_libraries():  # as the command does
        answer = client.post("/api/predict", files={"images": ("bomb.png", bytes(bomb))})
    assert answer.status_code == 422 and "max_pixels" in answer.json()["detail"]


def test_an_unknown_class_is_named(client):
    sent = {"files": {"image": ("a.png", png(9, 9))}, "data": {"class_name": "cat"}}
    answer = client.post("/api/explain", **sent)
    assert (answer.status_code, answer.json()["detail"][:11]) == (422, "class_name:")


def test_a_full_queue_is_503_with_the_time_to_wait(client, service):
    with service.batcher.places(19):
        answer = client.post("/api/predict", files=[("images", ("a.png", png(9, 9)))] * 2)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        one = client.post("/api/predict", files={"images": ("a.png", png(9, 9))})
        assert one.status_code == 200
    again = client.post("/api/predict", files=[("images", ("a.png", png(9, 9)))] * 2)
    assert again.status_code == 200


def test_a_slow_answer_is_504_and_releases_its_place(client, service, monkeypatch):
    monkeypatch.setattr(service.batcher, "_max_wait", 0.5)
    monkeypatch.setattr(service, "limits", dataclasses.replace(service.limits, answer_seconds=0.1))
    answer = client.post("/api/predict", files={"images": ("a.png", png(9, 9))})
    assert answer.status_code == 504
    assert service.batcher.taken == 0


@pytest.mark.parametrize("name", ["../../etc/passwd", "<script>x</script>.png", "a\u202eb.png"])
def test_hostile_names_are_returned_as_text(client, name):
    answer = client.post("/api/predict", files={"images": (name, png(9, 9))})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()[0]["filename"] == name
    wrong = client.post("/api/predict", files={"images": (name, b"words")}).json()["detail"]
    assert wrong.isprintable()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_page_holds_all_that_it_needs(client, path):
    answer = client.get(path)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "http" not in answer.text.replace('lang="en"', "")
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        assert b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
        assert "{{" not in text


def test_pages_need_no_token_and_what_they_show_does(service):
    client = TestClient(make_app(service, "demo", token="x" * 16), base_url=HERE)
    for path, status in (("/", 200), ("/docs", 200), ("/openapi.json", 401), ("/metrics", 401)):
        assert client.get(path).status_code == status


def test_large_images_of_one_request_are_not_all_decoded_at_once(client, service, monkeypatch):
    monkeypatch.setattr(service.decoders, "_most_work", 10_000_000)
    large = [("images", (f"{i}.png", png(2500, 2500))) for i in range(4)]
    answer = client.post("/api/predict", files=large)
    assert answer.status_code == 503
    assert client.post("/api/predict", files=large[:1]).status_code == 200
    assert service.batcher.taken == 0


def test_probes_need_no_host_name(client):
    for path in ("/health", "/ready"):
        answer = client.get(path, headers={"host": "10.1.2.3:8000"})
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_endpoint_is_described(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/api/model", "/api/predict", "/api/explain"}
    for path in ("/api/predict", "/api/explain"):
        post = paths[path]["post"]
        assert list(post["requestBody"]["content"]) == ["multipart/form-data"]
        assert {"200", "401", "413", "422", "503", "504"} <= set(post["responses"])
    model = client.get("/api/model").json()
    assert (model["run"], len(model["classes"]), model["tuned"]) == ("demo", 3, False)


def test_refused_hosts_and_ports(capsys):
    with listen("127.0.0.1", 0) as taken:
        assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"cannot listen on .*--port {port}: .*choose another"
        ):
            listen("127.0.0.1", port)
    for option in (
        ["--host", "0.0.0.0"],
        ["--host", "::1"],
        ["--port", "70000"],
        ["--max-pixels", "0"],
        ["--token", "short"],
        ["--host", "10.0.0.5"],  # without a token
        ["--host", "localhost.example"],
    ):
        with pytest.raises(SystemExit):
            parse(["--workdir", "w", *option])
        assert option[0] in capsys.readouterr().err


def test_a_token_from_the_command_line_or_the_environment(monkeypatch, capsys):
    token, away = "0123456789abcdef", ["--workdir", "w", "--host", "10.0.0.5"]
    assert parse([*away, "--token", token]).token == token
    assert parse(["--workdir", "w", "--host", "localhost"]).token == ""
    monkeypatch.setenv("MLCLS_JAX_TOKEN", token)
    assert parse(away).token == parse(["--workdir", "w"]).token == token
    with pytest.raises(SystemExit):
        parse([*away, "--token", token + "0"])
    assert "another one" in capsys.readouterr().err


def test_requests_that_have_arrived_are_answered_after_a_signal(service):
    began, go = threading.Event(), threading.Event()

    def call(items, size):
        began.set()
        go.wait(10)
        return service._call(items, size)

    own = copy.copy(service)  # with a queue for this server's event loop
    own.batcher = Batcher(call, service.batcher.seconds, 0.001, 20)
    own.decoders = Decoders(service.decoders.settings, 1, 60, 10**9)
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(make_app(own, "demo"), ws="none", log_level="error"))
    address = f"{HERE}:{listener.getsockname()[1]}/api/predict"
    with ThreadPoolExecutor(2) as pool:
        stopped = pool.submit(server.run, sockets=[listener])
        sent = {"files": {"images": ("a.png", png(9, 9))}, "timeout": 30}
        answer = pool.submit(httpx2.post, address, **sent)
        assert began.wait(30)
        server.handle_exit(signal.SIGTERM, None)
        go.set()
        assert answer.result().status_code == 200
        stopped.result(30)
    with pytest.raises(httpx2.ConnectError):
        httpx2.post(address, **sent)
