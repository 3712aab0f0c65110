"""A folder as a power failure leaves it: what was not synchronised is lost.

The calls that changed the folder, which failing_calls.c has recorded, are applied to a model.  A
file has the contents of its last fsync, and is empty without one.  A folder has the names of its
last fsync; as some file systems keep names longer than contents, `names_last` keeps all of them.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Call:
    """A recorded call.

    Attributes:
        number: from 1.
        name: "write", "fsync", "truncate", "create", "open", "unlink", "mkdir" or "rename".
        error: errno; 0 for success.
        path, second: its paths.
    """

    number: int
    name: str
    error: int
    path: Path
    second: str


def read_calls(log: Path) -> list[Call]:
    """Returns the recorded calls."""
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return [Call(int(n), name, int(error), Path(a), b) for n, name, error, a, b in rows]


@dataclass
class Node:
    """A file or folder, with what is in memory and what is on disk."""

    is_folder: bool
    names: dict[str, "Node"] = field(default_factory=dict)
    names_on_disk: dict[str, "Node"] = field(default_factory=dict)
    contents_on_disk: bytes = b""


class Model:
    """The folder in the model.

    Attributes:
        root: the folder.
        copies: where failing_calls.c has copied the folder before each call.
    """

    def __init__(self, root: Path, copies: Path):
        self.root, self._copies, self._top = root, copies, Node(is_folder=True)

    def apply(self, call: Call) -> None:
        """Applies a call that succeeded."""
        if call.error:
            return
        if call.name == "fsync":
            self._sync(call)
        if call.name not in ("create", "mkdir", "unlink", "rename"):
            return
        parent = self._find(call.path.parent)
        if call.name in ("create", "mkdir"):
            parent.names[call.path.name] = Node(is_folder=call.name == "mkdir")
        elif call.name == "unlink":
            del parent.names[call.path.name]
        else:
            target = Path(call.second)
            self._find(target.parent).names[target.name] = parent.names.pop(call.path.name)

    def _sync(self, call: Call) -> None:
        node = self._find(call.path)
        if node.is_folder:
            node.names_on_disk = dict(node.names)
        else:
            copy = self._copies / str(call.number) / call.path.relative_to(self.root)
            node.contents_on_disk = copy.read_bytes()

    def _find(self, path: Path) -> Node:
        node = self._top
        for name in path.relative_to(self.root).parts:
            node = node.names[name]
        return node

    def names(self) -> set[str]:
        """Returns the paths of all files and folders in memory."""
        return {path for path, _ in _walk(self._top, "", names_last=True)}

    def write(self, folder: Path, names_last: bool) -> None:
        """Writes what is left after a power failure now.

        Args:
            folder: for the files; it must be empty.
            names_last: whether names are on disk without an fsync of their folder.
        """
        for path, node in _walk(self._top, "", names_last):
            target = folder / path
            if node.is_folder:
                target.mkdir()
            else:
                target.write_bytes(node.contents_on_disk)


def _walk(node: Node, path: str, names_last: bool):
    """Yields all paths with their nodes, folders before what is in them."""
    for name, child in (node.names if names_last else node.names_on_disk).items():
        below = f"{path}/{name}" if path else name
        yield below, child
        if child.is_folder:
            yield from _walk(child, below, names_last)
