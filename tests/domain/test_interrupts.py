"""Ctrl-C during a write."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from forecaster.domain.interrupts import uninterrupted


def test_interrupt_waits_for_the_end_of_the_outermost_block() -> None:
    done = []

    @uninterrupted()
    def write() -> None:
        signal.raise_signal(signal.SIGINT)
        done.append("inner")

    with pytest.raises(KeyboardInterrupt), uninterrupted():
        write()
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_is_immediate() -> None:
    received = 0
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
            received += 1
    assert received == 1


def test_interrupt_after_a_block_is_immediate() -> None:
    with uninterrupted():
        pass
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_error_of_the_block_is_the_context_of_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("disk full")
    assert isinstance(caught.value.__context__, ValueError)


def test_other_threads_run_the_block_as_it_is() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(uninterrupted()(lambda: 1)).result() == 1
