"""What Prometheus reads."""

from __future__ import annotations

from tfgpt.serving.metrics import Metrics


def test_counters_gauges_and_histograms_as_prometheus_reads_them():
    metrics = Metrics()
    metrics.count("tfgpt_requests_total", path='/a"b\\c\nd', status="200")
    metrics.count("tfgpt_requests_total", 2, path="/", status="404")
    metrics.gauge("tfgpt_waiting", 3)
    metrics.gauge("tfgpt_waiting", 1)
    for seconds in (0.004, 0.3, 100.0):
        metrics.observe("tfgpt_token_seconds", seconds)
    lines = list(metrics.lines())
    assert 'tfgpt_requests_total{path="/a\\"b\\\\c\\nd",status="200"} 1' in lines
    assert 'tfgpt_requests_total{path="/",status="404"} 2' in lines
    assert "# TYPE tfgpt_requests_total counter" in lines and "# TYPE tfgpt_waiting gauge" in lines
    assert "tfgpt_waiting 1" in lines and "tfgpt_waiting 3" not in lines
    rows = [line.split() for line in lines if line.startswith("tfgpt_token_seconds_bucket")]
    counts = [float(count) for _, count in rows]
    assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == 3 and counts[-2] == 2
    assert "tfgpt_token_seconds_count 3" in lines and "tfgpt_token_seconds_sum 100.304000" in lines
