"""The ratios of a result: what can be compared from day to day, as absolute times cannot. Higher is better in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Ratios = dict[str, float]
SERVED = "tokens_per_s_x_transformers"


def of(record: Mapping[str, Any]) -> Ratios:
    """Name and value of each ratio; a name says what was compared in what shape, and with whom."""
    found = READERS.get(record["bench"], lambda record: {})(record)
    return {f"{record['bench']} {name}": float(value) for name, value in found.items() if value}


def _train(record: Mapping[str, Any]) -> Ratios:
    found: Ratios = {}
    for run in record["runs"]:
        name = f"{run['shape']} {run['precision']}"
        found[f"{name}, share of peak"] = run["results"]["tfgpt"]["of_matrix_peak"]
        for peer, beside in run["beside"].items():
            found[f"{name}, speed x {peer}"] = beside["x_speed"]
            found[f"{name}, memory of {peer} / ours"] = 1.0 / beside["x_memory"]
    return found


def _generate(record: Mapping[str, Any]) -> Ratios:
    batches = {key: value for key, value in record.items() if key.startswith("batch ")}
    return {f"{batch}, {name}": value for batch, found in batches.items() for name, value in found.items()}


def _encode(record: Mapping[str, Any]) -> Ratios:
    found: Ratios = {}
    for result in record["results"]:
        found[f"{result['text']}, speed x plain way"] = result["x_plain"]
        found[f"{result['text']}, share of tiktoken"] = result["of_tiktoken"]
    return found


def _input(record: Mapping[str, Any]) -> Ratios:
    return {
        f"{mode}, speed x tf.data": row["x_tf_data"] for mode, row in record["results"].items() if "x_tf_data" in row
    }


def _shakespeare(record: Mapping[str, Any]) -> Ratios:
    return {"time of nanoGPT's recipe / ours": 1.0 / share} if (share := record.get("of_their_time")) else {}


def _serve(record: Mapping[str, Any]) -> Ratios:
    loads = {name: value for name, value in record.items() if isinstance(value, Mapping)}
    return {
        f"{record.get('shape')} {load}, {key}": value
        for load, found in loads.items()
        for key, value in found.items()
        if key == SERVED
    }


READERS: dict[str, Callable[[Mapping[str, Any]], Ratios]] = {
    "train": _train,
    "generate": _generate,
    "encode": _encode,
    "input": _input,
    "shakespeare": _shakespeare,
    "serve": _serve,
}
