"""Groups of images (of a patient, a video, a site), which no two splits may share."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.system.console import quoted

# What a file name may say about a group: a word with a number, all that comes before the number of
# a frame or view, and two numbers, as in the chest X-rays of NIH.
_KEYWORDS = "patient|subject|person|case|study|video|vid|clip|movie|scene|seq|sequence|slide|site"
_WORD = re.compile(rf"(?:^|[/_. -])((?:{_KEYWORDS})([_-]?)\d+)(?!\d)", re.IGNORECASE)
_PART = re.compile(r"^.+([_-])(frame|view|slice|img|image|crop|shot)[_-]?\d+\.\w+$", re.IGNORECASE)
_NUMBERS = re.compile(r"(?:^|/)\d{3,}_\d{1,3}\.\w+$")
_MOST_UNEVEN = 0.2  # of a split's share, before it is said
_LOOKED_AT = 200  # file names that decide whether a pattern is likely
_LIKELY = 0.9  # share of the images whose names the pattern must fit


def with_pattern(table: LabelTable, pattern: str, *, may_fit_none: bool = False) -> LabelTable:
    """Returns the table with the groups that a pattern finds in its file names.

    Args:
      table: the images.
      pattern: a regular expression that is searched in each file name. The group is what its
        parentheses match, joined by "/"; the whole match if there are none. Images that it does not
        fit are groups of their own. "" returns the table unchanged.
      may_fit_none: whether a pattern that fits no file name is accepted.

    Raises:
      ValueError: the pattern fits no file name.

    >>> table = LabelTable("x", ("p1_a.jpg", "p1_b.jpg", "p2_a.jpg"), np.zeros((3, 1)), ("cat",))
    >>> with_pattern(table, r"p\\d+").groups
    ('p1', 'p1', 'p2')
    """
    if not pattern:
        return table
    groups = group_names(table.filenames, pattern)
    if not any(groups) and not may_fit_none:
        raise ValueError(
            f"config: data.group_pattern={pattern!r} fits none of the {len(table)} file names, "
            f"such as {table.filenames[0]!r}; correct it"
        )
    note = f"data.group_pattern: {group_counts(groups)}"
    return replace(table, groups=groups, notes=(*table.notes, note))


def group_names(filenames: Sequence[str], pattern: str) -> tuple[str, ...]:
    """Returns the group of each file name; "" where the pattern does not fit.

    >>> group_names(("site1/patient2_a.jpg", "other.jpg"), r"(site\\d)/(patient\\d+)")
    ('site1/patient2', '')
    """
    search = re.compile(pattern).search
    names = []
    for filename in filenames:
        match = search(filename)
        parts = [part or "" for part in match.groups()] if match else []
        names.append("/".join(parts) or (match[0] if match else ""))
    return tuple(names)


def group_counts(groups: Sequence[str]) -> str:
    """Returns the number of groups in words.

    >>> group_counts(["a", "a", "b", ""])
    '2 groups of 4 images; 1 of the images has no group and is one of its own'
    """
    single = sum(not name for name in groups)
    text = f"{len(set(groups) - {''})} groups of {len(groups)} images"
    if single:
        verbs = ("has", "is one") if single == 1 else ("have", "are each one")
        text += f"; {single} of the images {verbs[0]} no group and {verbs[1]} of its own"
    return text


def check_groups(splits: Mapping[str, LabelTable]) -> None:
    """Refuses groups that are in two splits.

    Args:
      splits: the table of each split.

    Raises:
      ValueError: a group is in two splits, because a score on it would be too high. Names groups.
    """
    owner: dict[str, str] = {}
    for split, table in splits.items():
        found = set(table.groups or ()) - {""}
        twice = sorted(name for name in found if name in owner)
        if twice:
            raise ValueError(
                f"{len(twice)} groups are in both {owner[twice[0]]} and {split}: {quoted(twice)}; "
                "correct the splits, give groups that differ other names, or set "
                "data.group_column='' and data.group_pattern='' to train on the leak"
            )
        owner |= dict.fromkeys(found, split)


def noting_shares(table: LabelTable, names: np.ndarray, shares: Mapping[str, float]) -> LabelTable:
    """Returns a table with a note of each split that large groups made much larger or smaller.

    Args:
      table: all images; without groups it is returned unchanged.
      names: str [n], the split or fold of the images that were divided.
      shares: the share that was asked for, by split.

    >>> table = LabelTable("x", tuple("abcd"), np.zeros((4, 1)), ("cat",), groups=tuple("pqqq"))
    >>> noting_shares(table, np.array(["train", "val", "val", "val"]), {"val": 0.25}).notes
    ('val has 75 % of the images instead of 25 %, because groups stay together',)
    """
    if table.groups is None:
        return table
    return replace(table, notes=(*table.notes, *_uneven_shares(names, shares)))


def _uneven_shares(names: np.ndarray, shares: Mapping[str, float]) -> tuple[str, ...]:
    found = {split: float((names == split).mean()) for split in shares}
    return tuple(
        f"{split} has {100 * found[split]:.0f} % of the images instead of {100 * share:.0f} %, "
        "because groups stay together"
        for split, share in shares.items()
        if abs(found[split] - share) > _MOST_UNEVEN * share
    )


def proposed_groups(splits: Mapping[str, LabelTable]) -> str:
    """Returns a line that names the pattern of likely groups that splits share, or "".

    Groups of one image each, and a single group, are not proposed.

    >>> names = tuple(f"patient{i // 2}_view{i}.png" for i in range(8))
    >>> table = LabelTable("x", names, np.zeros((8, 1)), ("cat",))
    >>> line = proposed_groups({"train": table.take(range(3)), "val": table.take(range(3, 8))})
    >>> line.rpartition("set ")[2]
    "--config.data.group_pattern='(patient\\\\d+)'"
    """
    filenames = [name for table in splits.values() for name in table.filenames]
    pattern = _likely_pattern(filenames)
    if not pattern:
        return ""
    sizes: dict[str, int] = defaultdict(int)
    places: dict[str, set[str]] = defaultdict(set)
    for split, table in splits.items():
        for name in group_names(table.filenames, pattern):
            if name:
                sizes[name] += 1
                places[name].add(split)
    fits = sum(sizes.values()) >= _LIKELY * len(filenames)
    shared = sum(len(found) > 1 for found in places.values())
    if len(splits) == 1:  # a fold is drawn from it later
        shared = sum(size > 1 for size in sizes.values())
    if not fits or len(sizes) < 2 or not shared:
        return ""
    name = max(sizes, key=lambda key: (sizes[key] > 1, key == next(iter(sizes))))
    where = "more than one split" if len(splits) > 1 else "more than one image"
    return (
        f"the names of images look like groups, such as {name!r} of {sizes[name]} images, and "
        f"{shared} of the {len(sizes)} {'is' if shared == 1 else 'are'} in {where}; if images of "
        f"one belong together, set --config.data.group_pattern='{pattern}'"
    )


def group_of_copies(pairs: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Returns the pattern that puts the images of each pair into one group, and such a group.

    Args:
      pairs: file names of images that are equal.

    Returns:
      ("", "") if the names of most pairs are not of one group.

    >>> group_of_copies([("case7_a.png", "case7_b.png"), ("case9_a.png", "case9_c.png")])
    ('(case\\\\d+)', 'case7')
    """
    pattern = _likely_pattern([name for pair in pairs for name in pair])
    if not pattern:
        return "", ""
    found = [group_names(pair, pattern) for pair in pairs]
    shared = [ours for ours, theirs in found if ours and ours == theirs]
    return (pattern, shared[0]) if len(shared) >= _LIKELY * len(pairs) else ("", "")


def _likely_pattern(filenames: Sequence[str]) -> str:
    """A regular expression for `group_names` that fits most file names, or ""."""
    step = max(1, len(filenames) // _LOOKED_AT)
    some = filenames[::step]
    for search, made in (
        (_WORD, lambda match: rf"({re.sub(r'[_-]?[0-9]+$', '', match[1])}{match[2]}\d+)"),
        (_PART, lambda match: rf"(.+){match[1]}{match[2]}"),
        (_NUMBERS, lambda match: r"(\d+)_\d+\.\w+$"),
    ):
        found = [match for match in map(search.search, some) if match]
        if found and len(found) >= _LIKELY * len(some):
            return made(found[0])
    return ""
