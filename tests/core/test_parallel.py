"""Threads that read ahead, in order and no further than they may."""

import threading

import pytest

from spadecli.core.parallel import map_in_order


def test_results_come_in_order():
    assert list(map_in_order(lambda i: i * i, range(100), threads=4)) == [i * i for i in range(100)]


def test_reads_ahead_but_not_far():
    started, lock = [], threading.Lock()

    def work(i):
        with lock:
            started.append(i)
        return i

    results = map_in_order(work, range(1000), threads=2)
    assert next(results) == 0
    assert len(started) <= 6
    results.close()
    assert len(started) <= 6


def test_failure_comes_in_its_place():
    def work(i):
        if i == 3:
            raise ValueError(i)
        return i

    results = map_in_order(work, range(10), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
