"""The bottleneck of training, found from the seconds of each part of a step.

`find_bottleneck` compares reading the input, computing the step and the Python loop around it, and
suggests what to change.
"""

from dataclasses import dataclass

from mlcls_jax.system.console import format_ms

_GOOD_SHARE = 0.3  # share of the matmul peak; EfficientNets on accelerators rarely reach more
_SECOND = 0.5  # the second part gets advice from this share of the longest part on
_UNEXPLAINED = 0.2  # share of a step's time that the parts may leave unexplained


@dataclass(frozen=True)
class Parts:
    """Seconds per training step of each part of training.

    Attributes:
        compute: the step alone, with its batch already on the devices.
        input: reading a batch alone, from files to devices.
        host: the Python loop alone, around an empty step.
        train: training end to end.
    """

    compute: float
    input: float
    host: float
    train: float


@dataclass(frozen=True)
class Setting:
    """Hardware and config, which the advice depends on.

    Attributes:
        cpu: whether the devices are the CPU cores that also read the images.
        keeps_heap: see heap.keeps_heap.
        compute_dtype: that of the network, "float32" or "bfloat16".
        cache: data.cache of the config.
        peak_share: share of the measured matmul peak that the step alone reaches.
    """

    cpu: bool
    keeps_heap: bool
    compute_dtype: str
    cache: str
    peak_share: float


@dataclass(frozen=True)
class Bottleneck:
    """The part of training that takes the longest.

    Attributes:
        bound: "input", "compute" or "host".
        why: the times of all parts, as text.
        change: suggestions to make training faster.
    """

    bound: str
    why: str
    change: tuple[str, ...]


def find_bottleneck(parts: Parts, setting: Setting) -> Bottleneck:
    """Finds the longest part of a training step, and suggests what to change.

    On accelerators the parts run at the same time, and the longest part hides the others. On the
    CPU they share the cores, so their times add up, and a second part that is at least half as long
    gets advice too.

    Args:
        parts: measured times.
        setting: hardware and config.
    """
    alone = {"input": parts.input, "compute": parts.compute, "host": parts.host}
    order = sorted(alone, key=lambda name: -alone[name])
    bound, second = order[0], order[1]
    together = parts.input + parts.compute + parts.host if setting.cpu else alone[bound]
    figures = ", ".join(f"{name} {format_ms(alone[name])} ms" for name in order)
    why = f"{figures}; end to end {format_ms(parts.train)} ms"
    if setting.cpu:
        why += "; reading and computing share the CPU cores, so their times add up"
    why += _mismatch(parts.train, alone[bound], together)
    change = _advice(bound, setting)
    if setting.cpu and alone[second] >= _SECOND * alone[bound]:
        change += _advice(second, setting)
    return Bottleneck(bound, why, tuple(change))


def _mismatch(train: float, longest: float, together: float) -> str:
    """Returns a clause if the parts do not explain the end-to-end time, otherwise ""."""
    if train < (1 - _UNEXPLAINED) * longest:
        return (
            "; that is less than one part alone, because something else ran at the same time: "
            "measure again"
        )
    extra = (train - together) / train
    return (
        f"; the parts alone do not explain {extra:.0%} of that: they slow each other down"
        if extra > _UNEXPLAINED
        else ""
    )


def _advice(bound: str, setting: Setting) -> list[str]:
    if bound == "input":
        return _input_advice(setting)
    if bound == "compute":
        return _compute_advice(setting)
    return ["a larger data.batch_size: the time of the loop per step does not grow with it"]


def _input_advice(setting: Setting) -> list[str]:
    advice = []
    if setting.cache == "none":
        advice.append("data.cache=disk (or memory): each image is decoded once, not in every epoch")
    return [
        *advice,
        "smaller image files, slightly larger than model.image_size, which decode faster",
        "more CPU cores for decoding, or a faster disk if the cores are idle",
    ]


def _compute_advice(setting: Setting) -> list[str]:
    advice = []
    if setting.cpu and not setting.keeps_heap:
        advice.append("reuse of heap memory: see docs/performance.md, On CPU")
    if not setting.cpu and setting.compute_dtype == "float32":
        advice.append("model.compute_dtype=bfloat16")
    if not setting.cpu and setting.peak_share < _GOOD_SHARE:
        advice.append("a larger data.batch_size; --sweep batch_size=… finds the best value")
    return [
        *advice,
        "more frozen layers, or frozen for longer; cached_views=1 in phases of the head alone",
        "a smaller model.image_size or model.variant",
        "a faster device" if setting.cpu else "more devices",
    ]
