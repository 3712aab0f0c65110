"""From the seconds of a step's parts to words: what bounds training, and what to change."""

from dataclasses import dataclass

from mlcls_jax.system.console import format_ms

_GOOD_SHARE = 0.3  # of the matmul peak; EfficientNets on accelerators rarely reach more
_SECOND = 0.5  # a part this large beside the longest one is worth its own advice
_UNEXPLAINED = 0.2


@dataclass(frozen=True)
class Parts:
    """Seconds of one training step.

    compute: on the devices, its batch already there.
    input: of a batch alone, from files to the devices.
    host: of the loop around a step of nothing.
    train: of all of them together, as in training.
    """

    compute: float
    input: float
    host: float
    train: float


@dataclass(frozen=True)
class Setting:
    """What the advice depends on.

    cpu: the devices are the cores that also read the images.
    keeps_heap: see devices.keeps_heap.
    compute_dtype, cache: of the config.
    peak_share: of the measured matmul peak, in the step alone.
    """

    cpu: bool
    keeps_heap: bool
    compute_dtype: str
    cache: str
    peak_share: float


@dataclass(frozen=True)
class Bottleneck:
    """bound: "input", "compute" or "host"; why: the figures; change: one advice each."""

    bound: str
    why: str
    change: tuple[str, ...]


def find_bottleneck(parts: Parts, setting: Setting) -> Bottleneck:
    """Names the longest part.

    On accelerators the parts run at the same time and the longest hides the others.  On the CPU
    input and compute share the cores, so their times add up, and a second part that is at least
    half as long gets advice too.
    """
    alone = {"input": parts.input, "compute": parts.compute, "host": parts.host}
    order = sorted(alone, key=lambda name: -alone[name])
    bound, second = order[0], order[1]
    together = parts.input + parts.compute + parts.host if setting.cpu else alone[bound]
    figures = ", ".join(f"{name} {format_ms(alone[name])} ms" for name in order)
    why = f"{figures}; end to end {format_ms(parts.train)} ms"
    if setting.cpu:
        why += "; the same cores read and compute, so times add up"
    why += _disagreement(parts.train, alone[bound], together)
    change = _advice(bound, setting)
    if setting.cpu and alone[second] >= _SECOND * alone[bound]:
        change += _advice(second, setting)
    return Bottleneck(bound, why, tuple(change))


def _disagreement(train: float, longest: float, together: float) -> str:
    """A clause where the end to end time is neither the sum of its parts nor near it."""
    if train < (1 - _UNEXPLAINED) * longest:
        return "; that is less than one part alone, so something else ran as well: measure again"
    extra = (train - together) / train
    return (
        f"; {extra:.0%} of that is in no part alone: they disturb each other"
        if extra > _UNEXPLAINED
        else ""
    )


def _advice(bound: str, setting: Setting) -> list[str]:
    if bound == "input":
        return _input_advice(setting)
    if bound == "compute":
        return _compute_advice(setting)
    return ["a larger data.batch_size: the loop's time per step does not grow with it"]


def _input_advice(setting: Setting) -> list[str]:
    advice = []
    if setting.cache == "none":
        advice.append("data.cache=disk (or memory): each image is decoded once, not each epoch")
    return [
        *advice,
        "store the images smaller, little above model.image_size: decoding costs by their size",
        "more cores for decoding, and a faster disk if the cores are idle",
    ]


def _compute_advice(setting: Setting) -> list[str]:
    advice = []
    if setting.cpu and not setting.keeps_heap:
        advice.append("a heap that is kept: GLIBC_TUNABLES as in the README, On CPU")
    if not setting.cpu and setting.compute_dtype == "float32":
        advice.append("model.compute_dtype=bfloat16")
    if not setting.cpu and setting.peak_share < _GOOD_SHARE:
        advice.append("a larger data.batch_size: --sweep batch_size=… finds the best")
    return [
        *advice,
        "train less of the network, or freeze it for longer; cached_views=1 in a phase of the head",
        "a smaller model.image_size or model.variant",
        "a faster device" if setting.cpu else "more devices",
    ]
