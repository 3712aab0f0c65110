"""A data card in words: the rows of its table, and its warnings."""

from collections.abc import Iterable, Sequence

from mlcls_jax.data.card.data_card import DataCard
from mlcls_jax.data.card.file_facts import FileFacts
from mlcls_jax.data.card.image_look import BLACK
from mlcls_jax.data.card.near_duplicates import THRESHOLD
from mlcls_jax.data.groups import group_of_copies
from mlcls_jax.system.console import format_bytes, quoted

SHOWN = 3  # images or classes in a sentence; data_card.json has all


def rows(card: DataCard) -> dict[str, str]:
    """Returns the rows of the table of a card; what is as usual has none."""
    labels, files = card.labels, card.files
    found = {"labels": _labels(card)}
    if files.ranges:
        found["files"] = _files(files)
    if "width" in files.ranges:
        sides = (
            f"{side} {low} to {high} (median {middle})" if low < high else f"{side} {low}"
            for side in ("width", "height")
            for low, middle, high in [files.ranges[side]]
        )
        found["pixels"] = ", ".join(sides)
    if set(files.bits) - {"8"}:
        counts = (f"{bits} ({_number(count, 'image')})" for bits, count in files.bits.items())
        found["bits of a value"] = ", ".join(counts)
    if files.images_read < card.images:
        found["read"] = f"{files.images_read:,} of {card.images:,} images"
    if files.images_compared < card.images - _gone(files):
        found["compared"] = f"{files.images_compared:,} of {card.images:,} files, for duplicates"
    copies = sum(len(group) - 1 for group in files.duplicates)
    if copies:
        found["duplicates"] = _number(copies, "image has", "images have") + (
            " the same bytes as another one"
        )
    if files.unreadable:
        names = quoted((name for _, name, _ in files.unreadable), SHOWN)
        found["unreadable"] = f"{_number(len(files.unreadable), 'image')}: {names}"
    if labels.contained:
        pairs = (f"{a!r} only with {b!r}" for a, b in labels.contained)
        found["always together"] = _listed(pairs)
    return found


def warnings(card: DataCard) -> list[str]:
    """Returns what is probably wrong with the data, one sentence or two each."""
    labels, files = card.labels, card.files
    found = []
    if files.leaks:
        pairs = _listed(f"{b[0]} {b[1]!r} is {a[0]} {a[1]!r}" for a, b in files.leaks)
        found.append(
            f"{_number(len(files.leaks), 'image has', 'images have')} the same bytes as an image "
            f"of another split, so scores on them are too high: {pairs}. Keep the copies of an "
            f"image in one split{_as_groups(files)}, or remove them."
        )
    if near := near_warning(card):
        found.append(near)
    if files.contradictions:
        named = _listed(
            f"{' and '.join(repr(name) for _, name in group['images'][:2])} "
            f"({quoted(group['classes'], SHOWN)})"
            for group in files.contradictions
        )
        found.append(
            f"{_number(len(files.contradictions), 'image', 'images')} with several copies of the "
            f"same bytes {'has' if len(files.contradictions) == 1 else 'have'} different labels: "
            f"{named}. Correct the labels."
        )
    of = f"of the {files.images_read:,} images that were read"
    if files.nearly_black:
        deep = " Their files have more than 8 bits a value." if set(files.bits) - {"1", "8"} else ""
        found.append(
            f"{len(files.nearly_black):,} {of} {_are(files.nearly_black)} nearly black, with no "
            f"value above {BLACK} of 255: {_images(files.nearly_black)}.{deep} Look at them in "
            "--dry-run's contact sheet."
        )
    if files.constant:
        found.append(
            f"{len(files.constant):,} {of} {_are(files.constant)} of one colour: "
            f"{_images(files.constant)}."
        )
    for group in labels.same_labels:
        found.append(
            f"The classes {quoted(group)} have the same labels in all "
            f"{labels.images_compared:,} images, so nothing can tell them apart."
        )
    return found


def near_warning(card: DataCard) -> str:
    """Returns the warning about images of val that look almost like one of train; "" for none."""
    same = {(a[1], b[1]) for a, b in card.files.leaks}
    pairs = [pair for pair in card.near_duplicates if (pair[0], pair[1]) not in same]
    if not pairs:
        return ""
    named = _listed(f"val {val!r} is like train {train!r}" for train, val, _ in pairs)
    return (
        f"{_number(len(pairs), 'image of val looks', 'images of val look')} almost like one of "
        f"train (features with a cosine of {THRESHOLD} or more), so scores may be too high: "
        f"{named}. If they show the same object, keep them in one split (data.group_column)."
    )


def _as_groups(files: FileFacts) -> str:
    """How groups would keep the copies together, if the names of the images show any."""
    pattern, name = group_of_copies([(a[1], b[1]) for a, b in files.leaks])
    if not pattern:
        return ""
    return (
        f" (their names look like groups, such as {name!r}: set data.group_column, or "
        f"--config.data.group_pattern='{pattern}')"
    )


def is_shortened(card: DataCard) -> bool:
    """Returns whether the rows and warnings leave out images or classes that the card names."""
    files = card.files
    lists = (
        *(files.leaks, files.contradictions, files.nearly_black, files.constant, files.unreadable),
        card.labels.contained,
    )
    return bool(files.duplicates) or any(len(found) > SHOWN for found in lists)


def _labels(card: DataCard) -> str:
    counts = card.labels.splits.values()
    positive, unknown = (sum(split[key] for split in counts) for key in ("positive", "unknown"))
    count = len(card.labels.positives)
    text = f"{_number(count, 'class', 'classes')}, {positive / card.images:.2f} positive an image"
    if unknown:
        text += f", {unknown / (count * card.images):.1%} unknown"
    return text


def _files(files: FileFacts) -> str:
    texts = [_counts(files.kinds)] if files.kinds else []
    if "bytes" in files.ranges:
        low, middle, high = map(format_bytes, files.ranges["bytes"])
        texts.append(f"{low} to {high} (median {middle})" if low != high else low)
    return "; ".join(texts)


def _counts(counts: dict[str, int]) -> str:
    """Counts in words, or the only name if there is one."""
    if len(counts) == 1:
        return next(iter(counts))
    return _listed(f"{count:,} {name}" for name, count in counts.items())


def _gone(files: FileFacts) -> int:
    return sum("does not exist" in reason for _, _, reason in files.unreadable)


def _listed(texts: Iterable[str], limit: int = SHOWN) -> str:
    texts = list(texts)
    rest = f" and {len(texts) - limit:,} more" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + rest


def _images(images: Sequence[list[str]]) -> str:
    return quoted((name for _, name in images), SHOWN)


def _are(found: Sequence) -> str:
    return "is" if len(found) == 1 else "are"


def _number(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"
