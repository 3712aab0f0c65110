"""Guard against pickles that would take excessive memory or time to load.

A pickle can put one tuple several times into another.  Thirty tuples, each twice in the next, fit
into 200 bytes, but hashing the last one visits a billion values, and a dictionary hashes its keys.
The keys of a state dict are names and numbers, so any other key is refused before it is loaded.

What else a few opcodes could make much of has a budget here, far above what a training checkpoint
of an EfficientNet needs.
"""

import pickletools
from typing import IO, Any

MAX_OPCODES = 2_000_000
MAX_BUILDS = 64  # each may copy a dictionary; a state dict has one, for its metadata
MAX_BITS = 128  # of an integer; torch's magic number has 77

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
    Takes time and memory in proportion to the opcodes.

    Args:
        file: positioned at the start of the pickle.
        size: size of the file, in bytes.

    Raises:
        ValueError: the memo would be larger than the file, a budget is exceeded, or a key is not a
            plain value.
        Exception: almost any other exception if the pickle is damaged.
    """
    stack: list[bool | None] = []  # whether each value is plain; None is a mark
    marks: list[int] = []  # indices of the marks in the stack
    memo: dict[int, bool | None] = {}
    builds = 0
    argument: Any
    for count, (opcode, given, _) in enumerate(pickletools.genops(file)):
        argument = given
        name, before = opcode.name, opcode.stack_before
        builds += name == "BUILD"
        _check_budgets(name, argument, size, count, builds)
        if pickletools.markobject in before:
            mark = marks[-1]
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
        while marks and marks[-1] >= len(stack):
            marks.pop()
        value = memo.get(int(argument)) if "GET" in name else not before
        for item in opcode.stack_after:
            if item is pickletools.markobject:
                marks.append(len(stack))
            stack.append(None if item is pickletools.markobject else bool(value))


def _check_budgets(name: str, argument: Any, size: int, count: int, builds: int) -> None:
    """Raises ValueError at an opcode for which the C unpickler would need too much."""
    if count >= MAX_OPCODES:
        raise ValueError(f"it has more than {MAX_OPCODES:,} opcodes")
    if builds > MAX_BUILDS:
        raise ValueError(f"it sets the state of more than {MAX_BUILDS} objects")
    if not isinstance(argument, int):
        return
    # The C unpickler allocates its memo up to the highest index that is used.
    if "PUT" in name and argument > size:
        raise ValueError("its memo is larger than the file")
    if argument.bit_length() > MAX_BITS:
        raise ValueError(f"it has an integer of more than {MAX_BITS} bits")
