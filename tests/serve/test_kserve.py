"""KServe's protocol: the same probabilities as the endpoint, and Triton's client reads them."""

import base64
import io
import json
import socket
import threading
import time

import httpx2
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from mlcls_jax.serve.app import make_app
from mlcls_jax.serve.limits import Limits
from mlcls_jax.serve.service import Service

HERE = "http://127.0.0.1"
INFER = "/v2/models/demo/infer"


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service, "demo"), base_url=HERE) as client:
        yield client


@pytest.fixture(scope="module")
def files():
    rng, found = np.random.default_rng(0), []
    for _ in range(3):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file, "PNG")
        found.append(file.getvalue())
    return found


def tensor(files: list[bytes], **changes) -> dict:
    data = [base64.b64encode(file).decode() for file in files]
    one = {"name": "image", "datatype": "BYTES", "shape": [len(files)], "data": data, **changes}
    return {"id": "7", "inputs": [one]}


def test_probabilities_are_those_of_the_endpoint(client, files, service):
    done = client.post(INFER, json=tensor(files))
    assert done.status_code == 200
    answer = done.json()
    assert (answer["model_name"], answer["id"]) == ("demo", "7")
    probabilities, present = answer["outputs"]
    assert probabilities["shape"] == present["shape"] == [3, 3]
    uploads = [("images", (f"{i}.png", file)) for i, file in enumerate(files)]
    expected = client.post("/api/predict", files=uploads).json()
    for name, output in (("probability", probabilities), ("present", present)):
        values = [one[name] for row in expected for one in row["classes"]]
        assert output["data"] == pytest.approx(values)


def test_health_and_metadata(client, service):
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    metadata = client.get("/v2/models/demo").json()
    assert metadata["parameters"]["classes"] == list(service.run.classes)
    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert client.get("/v2/models/demo/ready").status_code == 200
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404


def test_probes_need_no_token_and_a_server_that_stops_is_not_ready(service):
    app = make_app(service, "demo", token="s" * 16, is_stopping=lambda: True)
    client = TestClient(app, base_url=HERE)  # without the tasks of the service
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/health/ready").json() == {"ready": False}
    assert client.get("/v2/models/demo").status_code == 401
    assert client.post(INFER, json={}).status_code == 401


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "no inference request: Expecting"),
        (b"[]", 400, "no inference request: "),
        (b"{}", 400, "'inputs' is missing"),
        (tensor([b"x"], name="x"), 400, "the only input is 'image'"),
        (tensor([b"x"], datatype="FP32"), 400, "the datatype must be BYTES"),
        (tensor([b"x"], shape=[2]), 400, "the shape is not that of its 1 elements"),
        (tensor([b"x"], data=["?"]), 400, "image: not base64"),
        (tensor([]), 400, "there is no image"),
        (tensor([b"no image"]), 422, "image[0]: "),
        (tensor([b"x"] * 5), 413, "a request may contain at most 4"),
    ],
)
def test_a_wrong_request_is_one_line(client, body, status, message):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    done = client.post(INFER, content=content)
    assert done.status_code == status
    assert message in done.json()["error"]


def test_an_unknown_output_or_a_cut_binary_tensor_is_refused(client, files):
    request = {**tensor(files), "outputs": [{"name": "logits"}]}
    assert client.post(INFER, json=request).json() == {"error": "unknown output 'logits'"}
    one = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "parameters": {"binary_data_size": 6},
    }
    head = json.dumps({"inputs": [one]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    body = head + (99).to_bytes(4, "little") + b"ab"
    done = client.post(INFER, content=body, headers=headers)
    assert "the binary tensor ends within an element" in done.json()["error"]


@pytest.fixture
def address(run):
    """Returns the address of a server with a service of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = make_app(Service(run, Limits(images=4)), "demo")
        server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore")
def test_tritons_client_gets_the_same_probabilities(address, files):
    triton = pytest.importorskip("tritonclient.http")
    remote = triton.InferenceServerClient(address)
    assert remote.is_server_live() and remote.is_server_ready()
    assert remote.is_model_ready("demo")
    assert remote.get_model_metadata("demo")["outputs"][0]["datatype"] == "FP32"
    results = []
    for binary in (True, False):
        images = triton.InferInput("image", [len(files)], "BYTES")
        encoded = files if binary else [base64.b64encode(file) for file in files]
        images.set_data_from_numpy(np.array(encoded, object), binary_data=binary)
        results.append(remote.infer("demo", [images]).as_numpy("probabilities"))
    remote.close()
    uploads = [("images", (f"{i}.png", file)) for i, file in enumerate(files)]
    rows = httpx2.post(f"http://{address}/api/predict", files=uploads, timeout=60).json()
    expected = [[one["probability"] for one in row["classes"]] for row in rows]
    for got in results:
        np.testing.assert_allclose(got, expected, rtol=1e-5)
