"""The latest results of one machine as tables of Markdown, for a page."""

from __future__ import annotations

from tfgpt.benchmarks import history, ratios


def text(records: list[history.Record]) -> str:
    """What the newest result's machine measured last: training in full, then every ratio."""
    place = history.where(records[-1])
    mine = [record for record in records if history.where(record) == place]
    parts = [f"{place}.\n"]
    if runs := _runs(mine):
        parts += [_training(runs), ""]
    parts.append(_ratios(mine))
    return "\n".join(parts)


def _runs(records: list[history.Record]) -> list[tuple[history.Record, history.Record]]:
    """The last run of each shape and precision, with the record it is part of, in the order of shapes."""
    found = {}
    for record in records:
        for run in record["runs"] if record["bench"] == "train" else []:
            found[run["shape"], run["precision"]] = (run, record)
    order = {shape: number for number, shape in enumerate("SML")}
    return [found[key] for key in sorted(found, key=lambda key: (order.get(key[0], 9), key[1] != "float32"))]


def _training(runs: list[tuple[history.Record, history.Record]]) -> str:
    lines = [
        "| training | | tokens/s (lowest, highest) | of peak | memory, MB | compile, s | ours is x as fast | with |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for run, _ in runs:
        for number, (name, row) in enumerate(run["results"].items()):
            what = "" if number else f"{run['shape']}, {run['precision']}"
            beside = run["beside"].get(name, {}).get("x_speed", "")
            lines.append(
                f"| {what} | {name} | {row['tokens_per_s']:,.0f} ({row['lowest']:,.0f}, {row['highest']:,.0f}) "
                f"| {row['of_matrix_peak']:.0%} | {row['peak_mb']:,} | {row['compile_s']} | {beside} | {row['with']} |"
            )
    return "\n".join(lines)


def _ratios(records: list[history.Record]) -> str:
    found = {}
    for record in records:
        for name, value in ratios.of(record).items():
            found[name] = f"| {name} | {value:.3g} | {record.get('date', '')[:10]} {record.get('commit', '')} |"
    return "\n".join(["| ratio; the higher, the better | | measured |", "|---|---|---|", *found.values()])
