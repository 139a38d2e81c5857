from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.keys import MAX_KEYS
from service.rates import Rates

ROOT = Path(__file__).parents[1]


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rates(tmp_path: Path, clock: Clock) -> Rates:
    return Rates(tmp_path / "rates", clock)


def test_a_slow_key_may_send_one_full_request_at_once(rates: Rates) -> None:
    assert rates.charge(0, 256, rate=10) == 0
    assert rates.charge(0, 1, rate=10) == pytest.approx(0.1)


def test_a_quick_key_may_send_a_second_at_once(rates: Rates) -> None:
    assert rates.charge(0, 1_000, rate=1_000) == 0
    assert rates.charge(0, 10, rate=1_000) == pytest.approx(0.01)


def test_the_rate_comes_back_with_time(rates: Rates, clock: Clock) -> None:
    rates.charge(0, 256, rate=10)
    clock.now += 5
    assert rates.charge(0, 51, rate=10) == pytest.approx(0.1)
    assert rates.charge(0, 50, rate=10) == 0
    assert rates.charge(0, 1, rate=10) == pytest.approx(0.1)


def test_what_is_refused_is_not_charged(rates: Rates) -> None:
    rates.charge(0, 255, rate=1)
    assert rates.charge(0, 100, rate=1) == pytest.approx(99)
    assert rates.charge(0, 1, rate=1) == 0


def test_an_idle_key_saves_no_more_than_a_burst(rates: Rates, clock: Clock) -> None:
    rates.charge(0, 256, rate=10)
    clock.now += 1e6
    assert rates.charge(0, 256, rate=10) == 0
    assert rates.charge(0, 1, rate=10) == pytest.approx(0.1)


def test_keys_have_rates_of_their_own(rates: Rates) -> None:
    rates.charge(0, 256, rate=1)
    assert rates.charge(MAX_KEYS - 1, 256, rate=1) == 0


def test_over_a_long_time_the_rate_is_kept(rates: Rates, clock: Clock) -> None:
    passed = 0
    for _ in range(10_000):
        passed += 7 * (rates.charge(0, 7, rate=128) == 0)
        clock.now += 1 / 128
    assert passed == 256 + 9_999  # the burst, and one product a step


def test_a_time_from_before_the_machine_was_started_anew_is_forgotten(rates: Rates, clock: Clock) -> None:
    rates.charge(0, 256, rate=1)
    clock.now = 5.0
    assert rates.charge(0, 256, rate=1) == 0


def test_workers_count_together(tmp_path: Path) -> None:
    ask = """
import sys
from pathlib import Path
from service.rates import Rates
rates = Rates(Path(sys.argv[1]))
print(sum(rates.charge(3, 1, rate=0.001) == 0 for _ in range(256)))
"""
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", ask, str(tmp_path / "rates")], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    passed = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert 256 <= sum(passed) <= 260  # a lock that is not got within a millisecond lets one more through


def test_a_worker_that_was_stopped_with_the_lock_holds_nobody_up(tmp_path: Path, rates: Rates) -> None:
    hold = """
import fcntl, os, sys
file = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "rates")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert rates.charge(0, 256, rate=1) == 0
    assert rates.charge(0, 1, rate=1) == pytest.approx(1)
    holder.communicate("")
