"""The points of `tfgpt check`, one function each; what they need of one another stands in `Case`."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from tfgpt import files, progress
from tfgpt.cli.check import BAD, GOOD, THOUGHT, Report
from tfgpt.config import Config, Loaded
from tfgpt.data import outlook, sides
from tfgpt.data.outlook import Outlook, size_words
from tfgpt.errors import UserError
from tfgpt.model import GPT
from tfgpt.model.shape import Shape
from tfgpt.training import changes, distribution, estimates, manifest, probe
from tfgpt.training.distribution import Place
from tfgpt.training.step import step_for

if TYPE_CHECKING:
    from tfgpt.training.estimates import Memory

MANY_EPOCHS, FEW_EPOCHS = 20, 0.01
CHINCHILLA = 20  # tokens a parameter at which a given amount of computing does most (arXiv 2203.15556)
SAVE_SPEED = 1e9  # bytes a second that training waits for while a checkpoint is copied out of the device's memory


@dataclass
class Case:
    """What is known of the run by now."""

    loaded: Loaded
    config: Config
    report: Report
    place: Place | None = None
    data: Outlook | None = None
    shape: Shape | None = None
    memory: Memory | None = None
    fits: bool = True
    step: int = 0  # at which an earlier run stands
    runtime: int | None = None  # bytes that this process held before there was a model


def check(loaded: Loaded, report: Report, *, tpu: str | None, timing: bool, measure: bool) -> None:
    """Put all points on the report, the quick ones first."""
    case = Case(loaded, loaded.config, report)
    configuration(case)
    attempt(report, "device", lambda: _device(case, tpu))
    attempt(report, "data", lambda: _data(case))
    attempt(report, "vocabulary", lambda: _vocabulary(case))
    if case.data is not None:
        attempt(report, "tokenizer", lambda: _tokenizer(case))
    if case.place is not None:
        attempt(report, "batches", lambda: _batches(case))
    if case.shape is not None:
        attempt(report, "model", lambda: model(case))
        if case.place is not None and case.fits:
            attempt(report, "memory", lambda: _memory(case, measure))
        attempt(report, "disk", lambda: _disk(case))
    attempt(report, "earlier run", lambda: _earlier(case))
    if timing and case.memory is not None:
        attempt(report, "time", lambda: _time(case))


def attempt(report: Report, name: str, action: Callable[[], None]) -> None:
    """A mistake that training would stop at is a cross here, and the other points go on."""
    try:
        action()
    except (UserError, OSError) as error:
        report.point(BAD, name, *str(error).splitlines())


def configuration(case: Case) -> None:
    default = Config(data_path="x").model_dump(mode="json")
    values = case.config.model_dump(mode="json")
    written = [
        key for key, origin in case.loaded.origins.items() if origin != "default" and values[key] != default[key]
    ]
    words = ", ".join(f"{key} {_short(values[key])}" for key in written)
    lines = textwrap.wrap(words, 92, break_on_hyphens=False) or ["nothing but defaults"]
    case.report.point(GOOD, "configuration", case.loaded.name, *lines)


def _device(case: Case, tpu: str | None) -> None:
    case.place = place = distribution.place(case.config, tpu=tpu)
    # As training does it, so that an earlier run is compared with what this one would be.
    case.config = case.config.model_copy(update={"precision": place.precision})
    held = probe.resident()
    case.runtime = held[0] if held else None
    case.report.point(GOOD, "device", place.device, place.reason)


def _data(case: Case) -> None:
    config = case.config
    case.data = data = outlook.look(config)
    lines = [data.what]
    mark = GOOD
    about = "" if data.exact else "about "
    if data.train_tokens:
        times = estimates.epochs(config, data.train_tokens)
        lines.append(estimates.epoch_words(config, data.train_tokens, exact=data.exact))
        if times > MANY_EPOCHS:
            mark = THOUGHT
            lines.append(
                f"that is often: beyond some {MANY_EPOCHS} times a model learns by heart; fewer max_steps, or more text"
            )
        elif times < FEW_EPOCHS:
            mark = THOUGHT
            lines.append("that is little of it: more max_steps would see more, and less data would do")
    if data.eval_tokens and config.eval_steps != 0:
        lines.append(
            f"{about}{data.eval_tokens:,} tokens held out; {data.eval_batches(config):,} batches an evaluation"
        )
    else:
        lines.append(
            "there is no evaluation: " + ("eval_steps is 0" if config.eval_steps == 0 else "nothing is held out")
        )
    if config.loss_on != "all" and data.sample:
        part = sides.share(data.sample, config.loss_on)
        lines.append(f"about {part:.0%} of its text is {config.loss_on}, and only that counts in the loss (loss_on)")
        if not part:
            mark = THOUGHT
            lines.append("only lines of the chat format have sides: training stops if there are none at all")
    if data.pending_bytes:
        mark = THOUGHT if mark == GOOD else mark
        lines.append(f"training encodes it first ({size_words(data.cache_bytes)} of records and tokens on the disk)")
    case.report.point(mark, "data", *lines, *data.notes)


def _vocabulary(case: Case) -> None:
    n_vocab = case.data.n_vocab if case.data else case.config.n_vocab
    if n_vocab is None:
        raise UserError("not known without the data", fix="mend the data first")
    case.shape = shape = Shape.of(case.config, n_vocab)
    about = "about " if case.data is not None and case.data.pending_bytes and case.config.n_vocab is None else ""
    padded = f", padded to {shape.rows:,}" if shape.rows > shape.n_vocab else ""
    eot = f", end-of-text is {case.data.eot}" if case.data is not None and not about else ""
    case.report.point(GOOD, "vocabulary", f"{about}{shape.n_vocab:,} ids{padded}{eot}")


def _tokenizer(case: Case) -> None:
    data = case.data
    assert data is not None
    if data.tokenizer is None:
        case.report.point(THOUGHT, "tokenizer", "there is none: training goes without, text cannot be generated")
        return
    wrong = next(
        (text for text in data.sample if data.tokenizer.decode(data.tokenizer.encode_array(text)) != text), None
    )
    name = f"{data.tokenizer.kind} of {data.tokenizer.n_vocab:,} ids"
    if wrong is not None:
        case.report.point(THOUGHT, "tokenizer", f"{name} does not give this text back: {wrong[:60]!r}")
        return
    size = sum(len(text.encode("utf-8")) for text in data.sample)
    tried = f"gives {size_words(size)} of the text back unchanged" if size else "nothing to try it on"
    made = " (of a sample; training makes the real one)" if data.pending_bytes and case.config.n_vocab is None else ""
    case.report.point(GOOD, "tokenizer", f"{name}{made} {tried}")


def _batches(case: Case) -> None:
    assert case.place is not None
    try:
        distribution.check_batches(case.config, case.place)
    except UserError:
        case.fits = False
        raise
    case.report.point(GOOD, "batches", *estimates.algebra(case.config, case.place.replicas).split("; "))


def model(case: Case) -> None:
    shape, config = case.shape, case.config
    assert shape is not None
    tokens = config.max_steps * config.train_batch_size * config.n_ctx
    share = tokens / shape.parameters
    remark = f"{share:.3g} tokens a parameter in all"
    if share < CHINCHILLA / 2:
        remark += f"; about {CHINCHILLA} make the most of the computing, so more steps or a smaller model would"
    elif share > CHINCHILLA * 2:
        remark += f"; beyond {CHINCHILLA}, a larger model would learn more from the same computing"
    work = f"{shape.training_flops / 1e6:,.3g} MFLOP a token, {shape.training_flops * tokens:.3g} FLOP in all"
    case.report.point(GOOD, "model", estimates.model_words(shape), work, remark)


def _memory(case: Case, measure: bool) -> None:
    place, shape, config = case.place, case.shape, case.config
    assert place is not None and shape is not None
    about: dict[str, Any] = {
        "replicas": place.replicas, "xla": place.xla, "precision": place.precision, "kind": place.kind,
        "runtime": case.runtime, "own": place.own,
    }  # fmt: skip
    case.memory = found = estimates.memory(config, shape, **about)
    free = estimates.free_memory(place.kind)
    parts = ", ".join(f"{name} {size_words(size)}" for name, size in found.parts().items() if size >= 1e6)
    lines = [f"about {size_words(found.total)}" + ("" if free is None else f" of {size_words(free)} free"), parts]
    lines[1:] = textwrap.wrap(lines[1], 92)
    if measure:
        real = probe.measure(config, n_vocab=shape.n_vocab)
        took = real.device_peak if place.kind == "GPU" and real.device_peak else real.peak
        lines.append(f"measured: {size_words(took)}; the estimate is {found.total / max(took, 1) - 1:+.0%} off")
    if free is not None and found.total > free:
        case.fits = False
        help_ = estimates.remedy(config, shape, free, **about)
        if help_ is None:
            lines.append("it does not fit, whatever the batch: a smaller model (n_layer, n_embd), or a larger machine")
        else:
            lines.append(f"it does not fit; this would, with {size_words(help_.total)}: {help_.words}")
    case.report.point(GOOD if case.fits else BAD, "memory", *lines)


def _disk(case: Case) -> None:
    config, shape, data = case.config, case.shape, case.data
    assert shape is not None
    found = estimates.disk(config, shape)
    there = sum(size for _, size in _files_below(files.join(config.model_path, "checkpoints")))
    words = f"up to {found.count} checkpoints of {size_words(found.checkpoint)}: {size_words(found.total)}"
    words += f", {size_words(there)} of them there" if there else ""
    if found.free is None:
        case.report.point(GOOD, "disk", words, f"in a bucket: {config.model_path}")
        return
    needed = max(found.total - there, 0)
    lines = [words, f"{size_words(found.free)} free at {config.model_path}"]
    mark = GOOD
    if needed > found.free:
        mark = BAD
        fitting = int((found.free + there) // found.checkpoint) - (found.count - config.keep_last)
        lines.append(
            f"they do not fit: --set keep_last={fitting}" if fitting >= 1 else "they do not fit: another model_path"
        )
    cache = str(files.cache_folder())
    free = estimates.free_disk(cache)
    if data is not None and data.cache_bytes and free is not None:
        lines.append(f"records and tokens: up to {size_words(data.cache_bytes)}, {size_words(free)} free at {cache}")
        if data.cache_bytes > free and mark == GOOD:
            # They may be there already, which training finds out; so this alone does not say no.
            mark = THOUGHT
    case.report.point(mark, "disk", *lines)


def _earlier(case: Case) -> None:
    config = case.config
    folder = files.join(config.model_path, "checkpoints")
    found = [entry for entry in manifest.entries(folder) if entry.serial is not None]
    if not found:
        case.report.point(GOOD, "earlier run", f"none in {config.model_path}: training begins at step 0")
        return
    newest = found[-1]
    sealed = manifest.read(files.join(folder, newest.name))

    text = manifest.read_part(files.join(folder, newest.name), manifest.CONFIG, sealed.parts[manifest.CONFIG])
    # Whether the data is the same is known by its content, which is not opened here.
    notes = changes.check(json.loads(text.tobytes()), config.model_dump(mode="json"), data_changed=False, allow=False)
    case.step = newest.step
    words = f"training goes on from step {newest.step:,} of {config.max_steps:,}"
    if newest.step >= config.max_steps:
        words = f"this run is complete: step {newest.step:,} of {config.max_steps:,}"
    case.report.point(GOOD, "earlier run", words, f"in {config.model_path}", *notes)


def _time(case: Case) -> None:
    config, place, shape, data = case.config, case.place, case.shape, case.data
    assert place is not None and shape is not None
    if not case.fits:
        case.report.point(THOUGHT, "time", "not measured, as the memory is too small")
        return
    with progress.Progress("compile and time a step", total=4, unit=""):
        with place.strategy.scope():
            gpt = GPT(config, n_vocab=shape.n_vocab)
        took = probe.timed(step_for(config, gpt, place))
    from tfgpt.training.peak import matrix_peak

    tokens = config.train_batch_size * config.n_ctx
    speed = tokens / took.step
    peak = matrix_peak(place.kind, place.precision) * place.replicas
    share = speed * shape.training_flops / peak
    left = max(config.max_steps - case.step, 0)
    evaluations = math.ceil(left / config.train_steps) if data is not None and data.eval_batches(config) else 0
    # An evaluation is the forward pass alone, a third of the work of a step.
    each = data.eval_batches(config) * config.eval_batch_size * config.n_ctx / speed / 3 if data else 0.0
    save = estimates.disk(config, shape).checkpoint / SAVE_SPEED
    saves = (math.ceil(left / config.save_steps) if config.save_steps else 0) + evaluations
    seconds = took.compile + left * took.step + evaluations * each + saves * save
    lines = [
        f"{duration(took.step)} a step, {speed:,.0f} tokens a second, {share:.0%} of this machine's matrix products; "
        f"{duration(took.compile)} to compile"
    ]
    with suppress(OverflowError, ValueError):  # in ten thousand years there is no date for it
        end = datetime.now().astimezone() + timedelta(seconds=seconds)
        lines.append(
            f"{left:,} steps, {evaluations:,} evaluations of {duration(each)} and about {saves:,} saves: "
            f"{duration(seconds)}"
        )
        lines.append(f"started now, it ends on {end:%A, %d %B %Y at %H:%M}")
    case.report.point(GOOD, "time", *lines)


def _files_below(folder: str) -> list[tuple[str, int]]:
    try:
        return list(files.walk(folder)) if files.exists(folder) else []
    except OSError:
        return []


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(0.25), duration(75), duration(7_000), duration(1e6)
    ('0.250 s', '1 min 15 s', '1 h 56 min', '11 days 13 h')
    """
    if seconds < 10:
        return f"{seconds:.3f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds < 86400:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:.0f} min"
    return f"{seconds // 86400:,.0f} days {seconds % 86400 // 3600:.0f} h"
