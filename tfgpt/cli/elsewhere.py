"""The points of `tfgpt check --hardware`: the run on machines that are not here, foretold on paper."""

from __future__ import annotations

import textwrap

from tfgpt.cli.check import BAD, GOOD, THOUGHT, Report
from tfgpt.cli.checking import Case, attempt, configuration, duration, model
from tfgpt.config import Loaded
from tfgpt.data import outlook
from tfgpt.data.outlook import size_words
from tfgpt.errors import UserError
from tfgpt.model.shape import Shape
from tfgpt.training import estimates, hardware, scale
from tfgpt.training.hardware import Hardware
from tfgpt.training.scale import Forecast

NOTICED = 0.05  # a share of a step from which on it is worth a word


def check(loaded: Loaded, report: Report, *, named: str, devices: int, efficiency: float | None) -> Hardware:
    """Put all points on the report; gives back the hardware that goes by the name."""
    case = Case(loaded, loaded.config, report)
    found = hardware.find(named, case.config)
    configuration(case)
    _hardware(case, found, devices)
    attempt(report, "vocabulary", lambda: _vocabulary(case))
    attempt(report, "batches", lambda: _batches(case, found, devices))
    if case.shape is not None:
        attempt(report, "model", lambda: model(case))
        if case.fits:
            _memory(case, found, devices)
        if case.fits:
            step = scale.forecast(case.config, case.shape, found, devices=devices, efficiency=efficiency)
            _step(case, found, step, efficiency)
            _time(case, step)
    return found


def _hardware(case: Case, found: Hardware, devices: int) -> None:
    precision = scale.precision(case.config, found)
    lines = [
        f"{devices:,} × {found.name} ({found.kind}): {_units(found.peak(precision))}FLOP/s in {precision}, "
        f"{size_words(found.memory)} at {_units(found.memory_bandwidth)}B/s"
    ]
    if devices > 1 and found.node > 1 and found.link:
        lines.append(f"{min(devices, found.node):,} of them joined by links of {_units(found.link)}B/s each way")
    if devices > found.node and found.network:
        lines.append(f"{-(-devices // found.node):,} machines, each with {_units(found.network)}B/s to the others")
    lines.append(found.source)
    if precision == "float32" and found.half > found.float32:
        times = found.half / found.float32
        lines.append(f"its products in {found.best} are {times:.2g} times as fast: --set precision={found.best}")
    case.report.point(GOOD, "hardware", *lines)


def _vocabulary(case: Case) -> None:
    """The configuration's own, as a forecast needs no data; only without one the data is asked, if it is here."""
    kind, _, count = (case.config.tokenizer or "").partition(":")
    size = case.config.n_vocab or (int(count) if kind == "bpe" and count else None)
    if size is None:
        try:
            size = outlook.look(case.config).n_vocab
        except (UserError, OSError) as error:
            raise UserError(
                f"not known without the data: {str(error).splitlines()[0]}",
                where="$.n_vocab",
                fix="--set n_vocab=50257   (GPT-2's; any size will do for a forecast)",
            ) from None
    case.shape = shape = Shape.of(case.config, size)
    case.report.point(GOOD, "vocabulary", f"{shape.n_vocab:,} ids, {shape.rows:,} rows")


def _batches(case: Case, found: Hardware, devices: int) -> None:
    try:
        scale.check(case.config, found, devices=devices)
    except UserError:
        case.fits = False
        raise
    case.report.point(GOOD, "batches", *estimates.algebra(case.config, devices).split("; "))


def _memory(case: Case, found: Hardware, devices: int) -> None:
    config, shape = case.config, case.shape
    assert shape is not None
    taken = scale.memory(config, shape, found, devices=devices)
    fits = taken.total <= found.usable
    windows = max(1, config.train_batch_size // (devices * config.accumulate))
    logits = estimates.logits_bytes(shape, windows * config.n_ctx)
    parts = ", ".join(f"{name} {size_words(size)}" for name, size in taken.parts().items() if size >= 1e6)
    if not scale.by_own_code(config, found, devices=devices):  # whose logits lie where gradients will be
        parts += f"; {size_words(logits)} of the activations for logits and what becomes of them"
    lines = [f"about {size_words(taken.total)} of {size_words(int(found.usable))} on each device"]
    lines += textwrap.wrap(parts, 92)
    most = scale.most_windows(config, shape, found, devices=devices)
    again = estimates.replace_keys(config, {"recompute": "block"})
    more = most if config.recompute != "none" else scale.most_windows(again, shape, found, devices=devices)
    largest = f"micro-batches of up to {most:,} windows fit on a device" if most else "not one window fits on a device"
    lines.append(largest + (f", {more:,} with recompute=block" if more > most else ""))
    if not fits:
        help_ = scale.remedy(config, shape, found, devices=devices)
        if help_ is None:
            lines.append(
                "it does not fit, whatever the batch: every device holds the whole model, and this one is too large"
            )
        else:
            lines.append(f"it does not fit; this would, with {size_words(help_.total)}: {help_.words}")
    case.fits = fits
    case.report.point(GOOD if fits else BAD, "memory", *lines)


def _step(case: Case, found: Hardware, step: Forecast, efficiency: float | None) -> None:
    config, shape = case.config, case.shape
    assert shape is not None

    def part(name: str, seconds: float, words: str) -> str:
        return f"{name:<9} {_seconds(seconds):>9} {seconds / step.step:>4.0%}  {words}"

    work = scale.work(config, shape) * step.tokens / step.devices
    lines = [
        f"{_seconds(step.step)}, one part after the other:",
        part("products", step.products, f"{_units(work)}FLOP on each device"),
        part("update", step.update, f"{size_words(scale.update_bytes(config, shape))} through its memory"),
    ]
    assumed = [
        f"products reach {efficiency or scale.assumed_efficiency(config, found, devices=step.devices):.0%} of the peak"
    ]
    if step.devices > 1:
        ways = [f"{name} {_seconds(way)}" for name, way in (("links", step.inside), ("network", step.across)) if way]
        size = size_words(scale.gradient_bytes(config, shape))
        lines.append(part("exchange", step.exchange, f"the sum of {size} of gradients: {', '.join(ways)}"))
        assumed.append(f"links {scale.LINK_SHARE[found.kind]:.0%} of their speed")
        assumed.append("and nothing overlaps: gradients are summed once, after the last")
    mark = GOOD
    longest = max(("products", "update", "exchange"), key=lambda name: getattr(step, name))
    lines.append(f"most of it are the {longest}" if longest == "products" else f"the {longest} takes longest")
    if longest != "products":
        mark = THOUGHT
        lines[-1] += ": larger batches need it less often (train_batch_size, accumulate)"
    if step.exchange > NOTICED * step.step:
        hidden = step.update + max(step.products, step.exchange)
        lines.append(f"were the exchange hidden behind the products, it would be {_seconds(hidden)}")
    lines += textwrap.wrap(f"assumed: {', '.join(assumed)}", 92)
    case.report.point(mark, "step", *lines)


def _time(case: Case, step: Forecast) -> None:
    config, shape = case.config, case.shape
    assert shape is not None
    total = config.max_steps * step.tokens
    lines = [
        f"{step.tokens_per_second:,.0f} tokens a second ({step.tokens_per_second / step.devices:,.0f} a device), "
        f"MFU {step.share_of_peak:.1%}",
        f"{config.max_steps:,} steps, {total:,} tokens: {duration(config.max_steps * step.step)}",
        "without evaluations, saves, compiling and waiting for data; on paper: nobody has run it there",
    ]
    case.report.point(GOOD, "time", *lines)


def _seconds(seconds: float) -> str:
    """A time for people, short ones too.

    >>> _seconds(0.0079), _seconds(75)
    ('7.9 ms', '1 min 15 s')
    """
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else duration(seconds)


def _units(number: float) -> str:
    """A number with a prefix, for a unit to follow.

    >>> _units(459e12), _units(2.766e12), _units(16e9)
    ('459 T', '2.77 T', '16 G')
    """
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "
