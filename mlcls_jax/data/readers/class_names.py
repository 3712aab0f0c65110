"""Names of classes that the labels call by something else, such as the codes of OpenImages."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlcls_jax.data.label_table import LabelTable
from mlcls_jax.data.readers.csv_files import read_csv_at
from mlcls_jax.data.readers.csv_labels import check_classes
from mlcls_jax.system.console import quoted

_HEADER = "LabelName"  # of OpenImages' codes; other files have another header, or none


@dataclass(frozen=True)
class ClassNames:
    """Names of classes.

    place: the file that they are from.
    by_code: the name of each class by what the labels call it; names are unique.
    """

    place: str
    by_code: dict[str, str]

    def former(self, names: Sequence[str]) -> list[str]:
        """Returns what the labels call some classes; a name that is unknown stays as it is."""
        codes = {name: code for code, name in self.by_code.items()}
        return [codes.get(name, name) for name in names]

    def renamed(self, table: LabelTable) -> LabelTable:
        """Returns a table with the names of its classes; those without a name keep their code.

        Raises:
          ValueError: none has a name, or a name is that of another class.
        """
        unknown = [code for code in table.classes if code not in self.by_code]
        if table.classes and len(unknown) == len(table.classes):
            raise ValueError(
                f"config: data.class_names: {self.place} names none of the {len(unknown)} classes, "
                f"such as {unknown[0]!r}; its first column must be what the labels call them"
            )
        classes = tuple(self.by_code.get(code, code) for code in table.classes)
        twice = [name for name, count in Counter(classes).items() if count > 1]
        if twice:
            raise ValueError(
                f"config: data.class_names: {self.place} calls a class {twice[0]!r}, which is what "
                "the labels call another class; rename one of them"
            )
        notes = ()
        if unknown:
            verb = (
                "has no name and keeps its" if len(unknown) == 1 else "have no name and keep their"
            )
            notes = (
                f"{self.place}: {len(unknown)} of {len(classes)} classes {verb} code: "
                f"{quoted(unknown)}",
            )
        return replace(table, classes=classes, notes=(*table.notes, *notes))


def read_class_names(place: str) -> ClassNames:
    """Reads a table of two columns: what the labels call a class, and its name.

    It may have a header.  If several classes have one name, each is followed by its code.

    Args:
      place: path or address of the file.

    Raises:
      ValueError: it cannot be read, has other columns, an empty cell, or a code twice.
    """
    cells = read_csv_at(place, _HEADER)
    if len(cells.columns) != 2:
        raise ValueError(
            f"{place}: has {len(cells.columns)} columns; data.class_names is a file of two: what "
            "the labels call a class, and its name"
        )
    codes, names = cells.columns.values()
    pairs = [(codes.name, names.name)]  # the header, or a class in its place
    for i, (code, name) in enumerate(zip(codes.texts, names.texts, strict=True)):
        if not code.strip() or not name.strip():
            raise (names if code.strip() else codes).error(i, "the cell is empty; fill it in")
        pairs.append((code.strip(), name.strip()))
    codes.check_unique(
        [code for code, _ in pairs[1:]], lambda i: f"both name {pairs[i + 1][0]!r}; remove one"
    )
    if codes.name in {code for code, _ in pairs[1:]}:
        raise ValueError(f"{place}: row 1 and another one name {codes.name!r}; remove one")
    check_classes(place, [name for _, name in pairs])
    counts = Counter(name for _, name in pairs)
    by_code = {code: f"{name} ({code})" if counts[name] > 1 else name for code, name in pairs}
    return ClassNames(place, by_code)
