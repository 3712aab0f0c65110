"""Whether a pickle can be loaded without taking memory or time beyond measure.

A pickle can put one tuple many times into another.  Thirty of them, each twice in the next, fit
into 200 bytes and are a billion to whoever hashes the last, and a dictionary hashes its keys.  The
keys of a state dict are names and numbers, so anything else is refused before it is loaded.
"""

import pickletools
from typing import IO, Any

# Of opcodes that hash: which of the values that they take.
_KEYS = {
    "SETITEM": slice(1, 2),
    "SETITEMS": slice(0, None, 2),
    "DICT": slice(0, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}


def check_opcodes(file: IO[bytes], size: int) -> None:
    """Reads up to the end of the next pickle.

    Follows the stack, as `pickletools.dis` does, to know of each value whether it is plain.

    Args:
        file: at the begin of the pickle.
        size: of the file, in bytes.

    Raises:
        ValueError: its memo would be larger than the file, or a key is no plain value.
        Exception: almost any other, where the pickle is damaged.
    """
    stack: list[bool | None] = []  # None: a mark
    memo: dict[int, bool | None] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name, before = opcode.name, opcode.stack_before
        # The C unpickler allocates its memo up to the highest index that is named.
        if name == "LONG_BINPUT" and isinstance(argument, int) and argument > size:
            raise ValueError("its memo is larger than the file")
        if pickletools.markobject in before:
            mark = len(stack) - stack[::-1].index(None) - 1
            taken, kept = stack[mark + 1 :], mark - before.index(pickletools.markobject)
        else:
            kept = len(stack) - len(before)
            taken = stack[max(kept, 0) :]
        keys = _KEYS.get(name)
        if keys is not None and not all(taken[keys]):
            raise ValueError("a key of a dictionary is no plain value")
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
            continue
        del stack[max(kept, 0) :]
        value = memo.get(int(argument)) if "GET" in name else not before
        pushed = [
            None if what is pickletools.markobject else bool(value) for what in opcode.stack_after
        ]
        stack += pushed
