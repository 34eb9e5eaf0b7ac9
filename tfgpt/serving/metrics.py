"""What the server counts, in the text format that Prometheus reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
HELP = {
    "tfgpt_requests_total": "Requests answered, by path and status.",
    "tfgpt_prompt_tokens_total": "Tokens of prompts, by model.",
    "tfgpt_generated_tokens_total": "Tokens written, by model.",
    "tfgpt_first_token_seconds": "Time from the request to its first token.",
    "tfgpt_token_seconds": "Time between two tokens of a text.",
    "tfgpt_waiting": "Texts that have been asked for and not ended.",
    "tfgpt_model_loaded": "Whether a model is in memory.",
    "tfgpt_model_memory_bytes": "Memory of the processes of models.",
    "tfgpt_loads_total": "Models loaded since the start.",
    "tfgpt_falls_total": "Processes of a model that ended by themselves.",
}


class Metrics:
    """Counters and histograms by name and labels.

    >>> metrics = Metrics()
    >>> metrics.count("tfgpt_loads_total")
    >>> print(*metrics.lines(), sep="\\n")
    # HELP tfgpt_loads_total Models loaded since the start.
    # TYPE tfgpt_loads_total counter
    tfgpt_loads_total 1
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        self._gauges: dict[str, dict[str, float]] = defaultdict(dict)
        self._times: dict[str, list[float]] = {}

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter."""
        self._counts[name][_labels(labels)] += amount

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """State what is just now."""
        self._gauges[name][_labels(labels)] = value

    def observe(self, name: str, seconds: float) -> None:
        """Add one duration to a histogram: buckets, then all, then the sum."""
        row = self._times.setdefault(name, [0.0] * (len(SECONDS) + 2))
        for i, limit in enumerate(SECONDS):
            row[i] += seconds <= limit
        row[-2] += 1
        row[-1] += seconds

    def lines(self) -> Iterator[str]:
        """All of it."""
        for table in (self._counts, self._gauges):
            for name, values in table.items():
                yield from _head(name, "counter" if name.endswith("_total") else "gauge")
                for labels, value in values.items():
                    yield f"{name}{labels} {value:g}"
        for name, row in self._times.items():
            yield from _head(name, "histogram")
            for limit, value in zip(SECONDS, row, strict=False):
                yield f'{name}_bucket{{le="{limit:g}"}} {value:g}'
            yield f'{name}_bucket{{le="+Inf"}} {row[-2]:g}'
            yield f"{name}_count {row[-2]:g}"
            yield f"{name}_sum {row[-1]:.6f}"


def _head(name: str, kind: str) -> Iterator[str]:
    yield f"# HELP {name} {HELP[name]}"
    yield f"# TYPE {name} {kind}"


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for value in labels.values())
    return "{" + ",".join(f'{name}="{value}"' for name, value in zip(labels, quoted, strict=True)) + "}"
