"""Signals stop a run cleanly, once; several processes decide identically."""

import os
import signal
import threading
from concurrent.futures import Future

import jax
import numpy as np
import pytest

from mlcls_jax import cli
from mlcls_jax.system import signals, threads
from mlcls_jax.system.early_signals import STOPPING
from mlcls_jax.system.signals import SaveClock, Stop, Terminated, leave_on_sigterm, stop_on_signals
from mlcls_jax.system.threads import StoppedError


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_stops_and_the_handlers_are_restored(number, capsys):
    stop, before = Stop(), [signal.getsignal(one) for one in STOPPING]
    with stop_on_signals(stop):
        assert not stop.is_set()
        os.kill(os.getpid(), number)
        assert stop.is_set() and stop.signal == number
    assert [signal.getsignal(one) for one in STOPPING] == before
    assert f"{number.name}: stopping after this step" in capsys.readouterr().out


def test_the_first_signal_counts():
    stop = Stop()
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGUSR1)  # SLURM sends SIGTERM at the end of the time
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signal == signal.SIGUSR1


def test_a_second_ctrl_c_interrupts_and_a_second_sigterm_does_not():
    stop = Stop()
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_print_does_not_undo_the_stop(monkeypatch):
    def reentrant(_):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    monkeypatch.setattr(signals.console, "print", reentrant)
    stop = Stop()
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.is_set()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)]
)
def test_a_signal_before_the_first_step_exits_with_its_code(monkeypatch, capsys, number, code):
    def start(_):
        with leave_on_sigterm():
            os.kill(os.getpid(), number)

    monkeypatch.setattr(cli, "_quiet_threads", lambda: None)
    with pytest.raises(SystemExit) as ended:
        cli.run(start)
    assert ended.value.code == code
    assert "before the first step; run the same command to continue" in capsys.readouterr().err
    assert not issubclass(Terminated, Exception)


def test_other_threads_leave_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)

    def run():
        with stop_on_signals(Stop()):
            assert signal.getsignal(signal.SIGTERM) == before

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


@pytest.mark.parametrize("first", [True, False])
def test_several_processes_decide_identically(monkeypatch, first):
    others, gathered = np.asarray([0, 0], np.int32), []

    def gather(own):
        gathered.append(own.tolist())
        return np.stack([own, others])

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0 if first else 1)
    monkeypatch.setattr(signals.multihost_utils, "process_allgather", gather)
    stop = Stop()
    assert stop.decide(save=True) == first  # the clock of the first process counts
    stop.set(signal.SIGTERM)
    assert not stop.is_set()  # the other process does not know yet
    assert not stop.decide()
    assert stop.signal == signal.SIGTERM
    other = Stop()
    others[:] = signal.SIGTERM, 1
    assert other.decide() and other.signal == signal.SIGTERM
    assert gathered == [[0, int(first)], [signal.SIGTERM, 0], [0, 0]]


def test_a_single_process_decides_without_a_gather(monkeypatch):
    monkeypatch.setattr(signals.multihost_utils, "process_allgather", None)
    stop = Stop()
    assert stop.decide(save=True) and not stop.decide() and not stop.is_set()


def test_the_save_clock_counts_from_the_last_save(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    clock, never = SaveClock(0.5), SaveClock(0)
    due = []
    for now[0] in (129.9, 130.0, 150.0):
        due.append(clock.is_due())
    clock.restart()
    for now[0] in (179.0, 180.0, 1e9):
        due.append(clock.is_due())
    assert due == [False, True, True, False, True, True] and not never.is_due()


def test_a_stop_ends_the_wait_for_a_result():
    stop, future = Stop(), Future()
    threading.Timer(0.02, stop.set).start()
    with pytest.raises(StoppedError):
        threads.result(future, stop)
    future.set_result(7)
    assert threads.result(future, stop) == 7  # the result is available


def test_a_long_wait_for_a_result_is_announced_once(monkeypatch):
    monkeypatch.setattr(threads, "TELL_SECONDS", 0.0)
    future, told = Future(), []
    threading.Timer(0.3, future.set_result, [7]).start()
    assert threads.result(future, Stop(), lambda: told.append(1)) == 7 and told == [1]
