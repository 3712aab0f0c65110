"""Guard against pickles that would take excessive memory or time to load.

A pickle can put one tuple several times into another.  Thirty tuples, each twice in the next, fit
into 200 bytes, but hashing the last one visits a billion values, and a dictionary hashes its keys.
The keys of a state dict are names and numbers, so any other key is refused before it is loaded.
"""

import pickletools
from typing import IO, Any

# For each opcode that hashes: which of the values that it takes from the stack.
_KEYS = {
    "SETITEM": slice(1, 2),
    "SETITEMS": slice(0, None, 2),
    "DICT": slice(0, None, 2),
    "ADDITEMS": slice(None),
    "FROZENSET": slice(None),
}


def check_opcodes(file: IO[bytes], size: int) -> None:
    """Checks the opcodes of the next pickle in a file, and reads up to its end.

    Simulates the stack, as `pickletools.dis` does, to know for each value whether it is plain.

    Args:
        file: positioned at the start of the pickle.
        size: size of the file, in bytes.

    Raises:
        ValueError: the memo would be larger than the file, or a key is not a plain value.
        Exception: almost any other exception if the pickle is damaged.
    """
    stack: list[bool | None] = []  # whether each value is plain; None is a mark
    memo: dict[int, bool | None] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name, before = opcode.name, opcode.stack_before
        # The C unpickler allocates its memo up to the highest index that is used.
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
            raise ValueError("a key of a dictionary is not a plain value")
        if "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if name == "MEMOIZE" else int(argument)] = stack[-1]
            continue
        del stack[max(kept, 0) :]
        value = memo.get(int(argument)) if "GET" in name else not before
        pushed = [
            None if item is pickletools.markobject else bool(value) for item in opcode.stack_after
        ]
        stack += pushed
