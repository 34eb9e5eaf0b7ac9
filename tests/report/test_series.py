"""Thinning, smoothing, axes and paths beside slow and simple references."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from tfgpt.report.chart import HEIGHT, WIDTH, path
from tfgpt.report.scale import Scale, duration, short, tick_label
from tfgpt.report.series import every, limits, smooth, thin


@pytest.mark.parametrize("n", [0, 1, 2, 30, 100, 5000])
def test_thinning_keeps_the_extremes_of_every_bucket(n):
    rng = np.random.default_rng(n)
    x = np.cumsum(rng.integers(1, 5, n)).astype(np.float64)
    values = rng.normal(size=n)
    values[rng.random(n) < 0.1] = np.nan
    kept = thin(x, values, 20)
    assert kept.size <= 42 and (np.diff(kept) > 0).all()
    if n > 42:
        width = (x[-1] - x[0]) / 20
        for b in range(20):
            inside = [i for i in range(n) if min(int((x[i] - x[0]) / width), 19) == b and not math.isnan(values[i])]
            for extreme in (min(inside, key=lambda i: values[i]), max(inside, key=lambda i: values[i])):
                assert extreme in kept
    else:
        assert kept.size == n


def test_one_spike_in_a_million_stays():
    values = np.ones(1_000_000)
    values[765_432] = 9.0
    kept = thin(np.arange(1_000_000.0), values, 500)
    assert 765_432 in kept and kept.size <= 1002


def test_smoothing_is_a_running_mean_that_passes_over_nan():
    rng = np.random.default_rng(0)
    values = rng.normal(size=400)
    values[[7, 8, 200]] = np.nan

    def slow(series):
        out = []
        for i in range(len(series)):
            half = min(i // 6, len(series) // 60 + 1)
            window = [v for v in series[i - half : i + half + 1] if not math.isnan(v)]
            out.append(math.fsum(window) / len(window) if window else math.nan)
        return np.array(out)

    np.testing.assert_allclose(smooth(values), slow(slow(values)), rtol=1e-9, equal_nan=True)
    assert smooth(np.empty(0)).size == 0 and np.isnan(smooth(np.full(5, np.nan))).all()
    assert smooth(values, steep=False)[:3].std() < values[:3].std()


@pytest.mark.parametrize(
    "low,high", [(0, 1), (0, 3036), (2.7, 10.9), (-5, 5e-3), (1e-9, 3e-9), (0, 1e12), (1e6, 1e6 + 10)]
)
@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_few_round_and_inside(low, high, log):
    if log and low <= 0:
        low = high / 1e4
    scale = Scale(low, high, log)
    ticks = scale.ticks(6)
    air = 1e-9 * (high - low)
    assert 2 <= len(ticks) <= 8 and all(low - air <= t <= high + air for t in ticks) and ticks == sorted(set(ticks))
    assert [float(scale.place(v)) for v in (low, high)] == pytest.approx([0, 1])
    assert all(len(short(t)) <= 9 for t in ticks)
    middle = math.sqrt(low * high) if log else (low + high) / 2
    assert float(scale.place(middle)) == pytest.approx(0.5)


def test_a_log_axis_shows_no_zero():
    assert np.isnan(Scale(0.1, 10, True).place(np.array([0.0, -1.0]))).all()
    assert limits([np.array([0.0, -1.0, np.nan])], log=True) == (0.1, 1.0)
    low, high = limits([np.array([3.0])])
    assert low < 3 < high


def test_a_path_can_be_read_back_and_nan_is_a_gap():
    rng = np.random.default_rng(1)
    x, y = np.sort(rng.random(200)), rng.random(200)
    y[[50, 51, 53, 120]] = np.nan  # 52 stands alone
    found = []
    for start, moves in re.findall(r"M([^lh]+)(l[^M]+|h0)", path(x, y)):
        at = [int(v) for v in start.split()]
        found.append([tuple(at)])
        numbers = [int(v) for v in re.findall(r"-?\d+", moves)] if moves != "h0" else []
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            at = [at[0] + dx, at[1] + dy]
            found[-1].append(tuple(at))
    wanted = [range(50), [52], range(54, 120), range(121, 200)]
    assert found == [[(round(x[i] * WIDTH), round((1 - y[i]) * HEIGHT)) for i in part] for part in wanted]
    assert path(np.empty(0), np.empty(0)) == "" == path(np.array([0.5]), np.array([np.nan]))
    assert path(np.array([0.5]), np.array([0.5]), dots=True) == "M1000 500h0"


def test_numbers_and_times_read_well():
    assert [short(v) for v in (0, 999.96, 1234567, -2500, 1e-5, 2.5e-4, 0.1234567, math.nan, 1e20)] == [
        "0", "1k", "1.235M", "-2.5k", "1e-5", "0.00025", "0.1235", "–", "1e+20",
    ]  # fmt: skip
    assert [duration(v) for v in (0, 59.4, 60, 3599.4, 3599.6, 86399.7, math.nan)] == [
        "0 s", "59.4 s", "1 min", "59 min 59 s", "1 h 00 min", "1 d 0 h", "–",
    ]  # fmt: skip
    assert [tick_label("time", v, 4000) for v in (0, 1200, 3600)] == ["0", "20 min", "60 min"]
    assert every(10, 4).tolist() == [0, 3, 6, 9] and every(0, 4).size == 0
