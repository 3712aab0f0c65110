"""Concurrent items share a call, excess items are refused, submitted items are answered."""

import asyncio
import threading

import pytest

from mlcls_jax.serve.batching import Batcher, BusyError, best_size

SAME = {1: 1.0, 4: 1.0, 16: 1.0}  # a device with cores to spare
LINEAR = {1: 1.0, 4: 4.0, 16: 16.0}  # and one without


class Program:
    """Doubles items, and keeps (items, size) of each call; calls wait for `go`."""

    def __init__(self, error: Exception | None = None):
        self.calls: list[tuple[list[int], int]] = []
        self.go, self.error = threading.Event(), error
        self.go.set()

    def __call__(self, items: list[int], size: int) -> list[int]:
        self.go.wait(10)
        self.calls.append((items, size))
        if self.error:
            raise self.error
        return [2 * item for item in items]


def make(program: Program, seconds=SAME, places: int = 100) -> Batcher[int, int]:
    return Batcher(program, seconds, max_wait=0.02, max_places=places)


def submit(batcher: Batcher[int, int], items) -> list[int]:
    async def all_at_once():
        async with batcher.running():
            return await asyncio.gather(*map(batcher.submit, items))

    return asyncio.run(all_at_once())


def test_concurrent_items_share_one_call():
    program = Program()
    assert submit(make(program), range(5)) == [0, 2, 4, 6, 8]
    assert program.calls == [([0, 1, 2, 3, 4], 16)]


def test_no_padding_if_every_row_costs_time():
    program = Program()
    assert submit(make(program, LINEAR), range(6)) == [0, 2, 4, 6, 8, 10]
    assert program.calls == [([0, 1, 2, 3], 4), ([4], 1), ([5], 1)]


def test_more_items_than_the_largest_batch_are_answered_in_order():
    program = Program()
    assert submit(make(program), range(20)) == [2 * item for item in range(20)]
    assert program.calls == [(list(range(16)), 16), ([16, 17, 18, 19], 4)]


@pytest.mark.parametrize(
    ("waiting", "seconds", "size"),
    [
        (1, SAME, 1),
        (2, SAME, 4),
        (5, SAME, 16),
        (5, LINEAR, 4),
        (3, LINEAR, 1),
        (3, {1: 1.0, 4: 2.9}, 4),
        (100, SAME, 16),
        (2, {8: 1.0, 16: 2.0}, 8),
    ],
)
def test_the_best_size_has_the_least_time_per_item(waiting, seconds, size):
    assert best_size(waiting, seconds) == size


def test_items_that_arrive_during_a_call_share_the_next_one():
    program = Program()
    batcher = make(program)

    async def late():
        async with batcher.running():
            program.go.clear()
            first = asyncio.create_task(batcher.submit(1))
            await asyncio.sleep(0.1)  # the first item is now in its call
            others = [asyncio.create_task(batcher.submit(item)) for item in (2, 3)]
            await asyncio.sleep(0.05)
            program.go.set()
            return await asyncio.gather(first, *others)

    assert asyncio.run(late()) == [2, 4, 6]
    assert program.calls == [([1], 1), ([2, 3], 4)]


def test_places_are_reserved_until_the_answer():
    batcher = make(Program(), places=3)
    with batcher.places(2):
        with pytest.raises(BusyError), batcher.places(2):
            pass
        with batcher.places(1):
            pass
    with batcher.places(3):
        pass


def test_an_error_fails_all_items_of_its_call_and_no_other():
    program = Program(RuntimeError("out of memory"))
    batcher = make(program)

    async def twice():
        async with batcher.running():
            failed = await asyncio.gather(
                batcher.submit(1), batcher.submit(2), return_exceptions=True
            )
            program.error = None
            return failed, await batcher.submit(3)

    failed, answered = asyncio.run(twice())
    assert list(map(str, failed)) == ["out of memory"] * 2
    assert answered == 6


def test_cancelled_items_are_not_computed():
    program = Program()
    batcher = make(program)

    async def give_up():
        async with batcher.running():
            task = asyncio.create_task(batcher.submit(1))
            await asyncio.sleep(0)
            task.cancel()
            return await batcher.submit(2)

    assert asyncio.run(give_up()) == 4
    assert program.calls == [([2], 4)]


@pytest.mark.parametrize("until", [0, 0.05])  # in the queue, and in its call
def test_the_end_waits_for_submitted_items(until):
    program = Program()
    program.go.clear()
    threading.Timer(0.15, program.go.set).start()
    batcher = make(program)

    async def end():
        async with batcher.running():
            tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
            await asyncio.sleep(until)
        return await asyncio.gather(*tasks)

    assert asyncio.run(end()) == [2, 4]
