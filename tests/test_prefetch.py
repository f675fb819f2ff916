import threading
import time
from contextlib import closing

import pytest

from pretrain.prefetch import Prefetch


def test_steps_come_in_order_and_each_is_drawn_once() -> None:
    drawn: list[int] = []

    def draw(step: int) -> int:
        drawn.append(step)
        return step * step

    with closing(Prefetch(draw, stop=6)) as ahead:
        assert [ahead.take(step) for step in range(2, 6)] == [4, 9, 16, 25]
    assert drawn == [2, 3, 4, 5]


def test_the_next_step_is_drawn_before_it_is_asked_for() -> None:
    begun = threading.Event()

    def draw(step: int) -> int:
        if step == 1:
            begun.set()
        return step

    with closing(Prefetch(draw, stop=3)) as ahead:
        assert ahead.take(0) == 0
        assert begun.wait(timeout=60)


def test_another_step_than_the_next_is_drawn_anew() -> None:
    with closing(Prefetch(lambda step: -step, stop=100)) as ahead:
        assert [ahead.take(step) for step in (3, 50, 4)] == [-3, -50, -4]


def test_an_error_of_the_draw_comes_at_its_step() -> None:
    def draw(step: int) -> int:
        if step == 1:
            raise ValueError("shard x is missing")
        return step

    with closing(Prefetch(draw, stop=9)) as ahead:
        assert ahead.take(0) == 0
        with pytest.raises(ValueError, match="shard x is missing"):
            ahead.take(1)


def test_waiting_is_counted() -> None:
    with closing(Prefetch(lambda step: time.sleep(0.05), stop=1)) as ahead:
        ahead.take(0)
        assert ahead.wait_seconds >= 0.05
