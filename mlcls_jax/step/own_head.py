"""The head of a run that starts from another run: outputs of the same classes are kept."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlcls_jax.models.ml_decoder import DecoderSize

KERNEL, BIAS = "kernel", "bias"  # the arrays with one part per class


@dataclass(frozen=True)
class Head:
    """The head of a network.

    Attributes:
        classes: names, in the order of the outputs.
        decoder: size of the ML-Decoder; None for global average pooling and a dense layer.
    """

    classes: tuple[str, ...]
    decoder: DecoderSize | None


def reused_head(
    params: dict, source: Head, fresh: dict, target: Head
) -> tuple[dict[str, Any], list[str]]:
    """Returns the parameters of a new head with those of another one where the classes agree.

    An ML-Decoder keeps everything that its classes share.  The output of a class depends on its
    query as well, so it is kept only if the class belongs to the same query in both heads.

    Args:
        params: of the source's head, nested.
        source, target: the two heads.
        fresh: parameters of the target's head, freshly drawn.

    Returns:
        The parameters, as NumPy arrays; and the classes whose outputs are those of the source.
    """
    if (source.decoder is None) != (target.decoder is None) or (
        source.decoder and target.decoder and source.decoder.width != target.decoder.width
    ):
        return fresh, []
    kernel, bias = np.array(fresh[KERNEL]), np.array(fresh[BIAS])
    kept = []
    for index, name in enumerate(target.classes):
        if name not in source.classes:
            continue
        other = source.classes.index(name)
        here, there = _part(kernel, index), _part(params[KERNEL], other)
        if here[0] == there[0]:
            kernel[here] = params[KERNEL][there]
            bias[index] = params[BIAS][other]
            kept.append(name)
    body = params if target.decoder else {}
    return {**body, KERNEL: kernel, BIAS: bias}, kept


def _part(kernel: Any, index: int) -> tuple[Any, ...]:
    """Returns the index of a class in a kernel: [feature, class] or [query, width, class]."""
    if kernel.ndim == 2:
        return (slice(None), index)
    per_query = kernel.shape[2]
    return (index // per_query, slice(None), index % per_query)


def describe_reuse(source: Head, target: Head, kept: list[str]) -> str:
    """Returns what a new network keeps, such as "backbone and head (the same 12 classes)"."""
    kinds = ["gap" if head.decoder is None else "mldecoder" for head in (source, target)]
    if kinds[0] != kinds[1]:
        return f"backbone; the head is new, because model.head is {kinds[1]}, not {kinds[0]}"
    if source.decoder and target.decoder and source.decoder.width != target.decoder.width:
        width = source.decoder.width
        return f"backbone; the head is new, because model.decoder_width is not {width} as there"
    count = len(target.classes)
    if len(kept) == count == len(source.classes):
        return f"backbone and head (the same {count} classes)"
    body = "backbone and decoder" if target.decoder else "backbone"
    moved = sum(name in source.classes and name not in kept for name in target.classes)
    order = (
        f"; {moved} others are there too, but belong to another query; the same order of classes "
        "(data.categories) and model.decoder_groups would keep them"
        if moved
        else ""
    )
    if not kept:
        return f"{body}; the outputs of all {count} classes are new{order}"
    return f"{body}, and the outputs of {len(kept)} of {count} classes{order}"
