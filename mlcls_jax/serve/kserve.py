"""KServe's inference protocol, version 2, over HTTP: encoded images in, probabilities out.

The input is one tensor `image` of type BYTES, each element the bytes of an image file: as they are
with the binary extension, and in base64 in JSON.  The outputs are JSON.

Source: KServe, "Open Inference Protocol", and Triton's "Binary Tensor Data Extension".
"""

import base64
import binascii
import io
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.responses import JSONResponse

from mlcls_jax import __version__
from mlcls_jax.serve.batching import BusyError
from mlcls_jax.serve.service import Answer

INPUT, PROBABILITIES, PRESENT = "image", "probabilities", "present"
_HEADER = "Inference-Header-Content-Length"  # bytes of the JSON; tensors follow
_LENGTH = 4  # bytes, little endian, before each element of a binary BYTES tensor

# Answers all images of a request; raises HTTPException or BusyError.
Answering = Callable[[list[UploadFile]], Awaitable[Sequence[Answer]]]


def add_kserve(app: FastAPI, name: str, classes: Sequence[str], answering: Answering) -> None:
    """Adds the endpoints below /v2; those of health are in `limits`.

    Args:
        app: the application.
        name: of the model.
        classes: class names, in the order of the outputs.
        answering: answers the images of a request.
    """

    @app.get("/v2", include_in_schema=False)
    async def server() -> dict[str, Any]:
        return {
            "name": "mlcls_jax",
            "version": __version__,
            "extensions": ["binary_tensor_data"],
        }

    @app.get("/v2/models/{model}", include_in_schema=False)
    async def metadata(model: str) -> JSONResponse:
        if model != name:
            return _unknown(model)
        count = len(classes)
        return JSONResponse(
            {
                "name": name,
                "versions": ["1"],
                "platform": "mlcls_jax",
                "inputs": [_tensor(INPUT, "BYTES", [-1])],
                "outputs": [
                    _tensor(PROBABILITIES, "FP32", [-1, count]),
                    _tensor(PRESENT, "BOOL", [-1, count]),
                ],
                "parameters": {"classes": list(classes)},
            }
        )

    @app.get("/v2/models/{model}/ready", include_in_schema=False)
    async def ready(model: str) -> JSONResponse:
        return JSONResponse({"name": name, "ready": True}) if model == name else _unknown(model)

    @app.post("/v2/models/{model}/infer", include_in_schema=False)
    async def infer(model: str, request: Request) -> JSONResponse:
        if model != name:
            return _unknown(model)
        try:
            content, uploads = read_request(await request.body(), request.headers.get(_HEADER))
            answers = await answering(uploads)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, error.status_code)
        except BusyError:
            return JSONResponse({"error": "too many images at the same time; try again"}, 503)
        values = {
            PROBABILITIES: np.stack([answer.probabilities for answer in answers]).astype(float),
            PRESENT: np.stack([answer.present for answer in answers]),
        }
        wanted = [one.get("name") for one in content.get("outputs") or ()] or list(values)
        if unknown := [output for output in wanted if output not in values]:
            return JSONResponse({"error": f"unknown output {str(unknown[0])[:80]!r}"}, 400)
        kinds = {PROBABILITIES: "FP32", PRESENT: "BOOL"}
        outputs = [
            {
                **_tensor(out, kinds[out], list(values[out].shape)),
                "data": values[out].ravel().tolist(),
            }
            for out in wanted
        ]
        named = {"id": content["id"]} if isinstance(content.get("id"), str) else {}
        return JSONResponse({"model_name": name, "model_version": "1", **named, "outputs": outputs})


def read_request(body: bytes, header: str | None) -> tuple[dict[str, Any], list[UploadFile]]:
    """Returns the JSON of a request, and its images as uploads.

    Args:
        body: of the request.
        header: number of bytes of the JSON at its start; None if there is nothing else.

    Raises:
        HTTPException: 400, if the request is not as the protocol says.
    """
    end = int(header) if header and header.isdecimal() else len(body)
    try:
        content = json.loads(body[:end])
        tensors = {one["name"]: one for one in content["inputs"]}
        if set(tensors) != {INPUT}:
            raise ValueError(f"the only input is {INPUT!r}")
        tensor = tensors[INPUT]
        if tensor.get("datatype") != "BYTES":
            raise ValueError(f"{INPUT}: the datatype must be BYTES")
        if "data" in tensor:
            parts = [base64.b64decode(text, validate=True) for text in _flat(tensor["data"])]
        else:
            parts = list(_elements(body[end : end + int(tensor["parameters"]["binary_data_size"])]))
        if len(parts) != int(np.prod(tensor["shape"])):
            raise ValueError(f"{INPUT}: the shape is not that of its {len(parts)} elements")
        if not parts:
            raise ValueError(f"{INPUT}: there is no image")
    except binascii.Error as error:
        raise HTTPException(400, f"{INPUT}: not base64 ({error})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise HTTPException(400, f"no inference request: {reason[:200]}") from error
    return content, [
        UploadFile(io.BytesIO(part), size=len(part), filename=f"{INPUT}[{i}]")
        for i, part in enumerate(parts)
    ]


def _flat(data: Any) -> Iterator[Any]:
    for one in data:
        if isinstance(one, list):
            yield from _flat(one)
        else:
            yield one


def _elements(data: bytes) -> Iterator[bytes]:
    """Yields the elements of a binary BYTES tensor."""
    begin = 0
    while begin < len(data):
        end = begin + _LENGTH + int.from_bytes(data[begin : begin + _LENGTH], "little")
        if end > len(data):
            raise ValueError(f"{INPUT}: the binary tensor ends within an element")
        yield data[begin + _LENGTH : end]
        begin = end


def _tensor(name: str, datatype: str, shape: list[int]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape}


def _unknown(model: str) -> JSONResponse:
    return JSONResponse({"error": f"no model {model[:80]!r}"}, 404)
