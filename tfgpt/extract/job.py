"""The whole of an extraction: sources to pages, pages to workers, results to the journal."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tfgpt.errors import UserError
from tfgpt.extract import engines, names
from tfgpt.extract.journal import EMPTY, FAILED, KEPT, Journal, digest, kind_of
from tfgpt.extract.limits import Limits
from tfgpt.extract.pool import Pool, Result, Task
from tfgpt.extract.sources import Page, Source, Unusable, discover
from tfgpt.extract.streams import Damage
from tfgpt.files import sync_folder
from tfgpt.locks import folder_lock
from tfgpt.machine import cores
from tfgpt.progress import Progress
from tfgpt.signals import StopRequest

EXAMPLES = 10


@dataclass
class Summary:
    """What an output folder holds, this run and earlier ones together."""

    kept: int = 0
    empty: int = 0
    failed: int = 0
    earlier: int = 0
    """Of all these, the pages that earlier runs had finished."""
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[tuple[str, str]] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    """Members of archives that are no pages, by what they are."""
    damaged: list[tuple[str, str]] = field(default_factory=list)
    """Archives that could not be read to their end, and why and where."""

    def __str__(self) -> str:
        before = f" ({self.earlier} of all pages by earlier runs)" if self.earlier else ""
        lines = [f"{self.kept} texts kept, {self.empty} pages without text, {self.failed} failed{before}"]
        lines += [f"  {count} failed: {reason}" for reason, count in self.reasons.most_common()]
        lines += [f"    e.g. {member}: {reason}" for member, reason in self.examples]
        lines += [f"  {count} members skipped: {what}" for what, count in self.skipped.most_common()]
        lines += [f"  damaged: {path}: {what}" for path, what in self.damaged]
        return "\n".join(lines)


def extract(
    paths: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    engine: str = "newspaper",
    language: str = "en",
    processes: int | None = None,
    limits: Limits | None = None,
    min_characters: int = 1,
    chunk_size: int = 100,
) -> Summary:
    """Extract the text of every page in `paths` to OUTPUT/<month or archive>/<page>.txt; call it again to go on.

    >>> print(extract(["RS_2017-04_data.tar.xz"], "parsed"))   # doctest: +SKIP
    91233 texts kept, 6120 pages without text, 14 failed
    """
    limits = limits or Limits()
    processes = processes if processes is not None else cores()
    for name, value, least in (
        ("processes", processes, 1),
        ("chunk_size", chunk_size, 1),
        ("min_characters", min_characters, 0),
    ):
        if value < least:
            raise UserError(f"{name} must be at least {least}, not {value}", fix=f"--{name} {max(least, 1)}")
    engines.check_name(engine)
    sources = discover(paths)
    root = Path(os.path.abspath(output))
    if root.exists() and not root.is_dir():
        raise UserError("the output is not a folder", where=str(root), fix=f"--output {root}.text")
    state = root / ".extract"
    worker_settings = {
        "engine": engine,
        "language": language,
        "min_characters": min_characters,
        "timeout": limits.timeout,
        "max_memory": limits.max_memory,
        "scratch": str(state / "scratch"),
    }
    with ExitStack() as stack:
        pool = stack.enter_context(Pool(processes, worker_settings))
        (state / "scratch").mkdir(parents=True, exist_ok=True)
        stack.enter_context(folder_lock(state / "lock", purpose="an extraction"))
        for left_over in (state / "scratch").iterdir():
            left_over.unlink(missing_ok=True)
        settings = {"engine": engine, "language": language, "min_characters": min_characters}
        journal = Journal(state / "journal.jsonl", settings)
        stack.callback(journal.close)
        stop = stack.enter_context(
            StopRequest(f"stopped; what is done is safe in {root}, and the same command goes on from there")
        )
        total = sum(source.size() for source in sources)
        bar = stack.enter_context(Progress("extract", total=total))
        return _Job(root, journal, pool, limits, chunk_size, stop, bar).run(sources)


class _Job:
    def __init__(
        self,
        root: Path,
        journal: Journal,
        pool: Pool,
        limits: Limits,
        chunk_size: int,
        stop: StopRequest,
        bar: Progress,
    ) -> None:
        self.root, self.journal, self.pool, self.limits = root, journal, pool, limits
        self.chunk_size, self.stop, self.bar = chunk_size, stop, bar
        self.open_chunks: dict[tuple[int, str], list[tuple[int, str, str, str]]] = {}
        counts = journal.counts
        self.summary = Summary(counts[KEPT], counts[EMPTY], counts[FAILED], counts.total(), Counter(journal.reasons))

    def run(self, sources: list[Source]) -> Summary:
        try:
            for source in sources:
                self._source(source)
        except BaseException:
            # What is finished is recorded whatever happened; a second failure here must not hide the first.
            try:
                self._flush(1)
            except OSError:
                pass
            raise
        return self.summary

    def _source(self, source: Source) -> None:
        try:
            stamp = source.stamp() if source.kind == "archive" else ""
            if stamp and self.journal.is_finished(str(source.path), stamp):
                self.bar.update(source.size())
                return
            self._pages(source)
        except Damage as damage:
            self.summary.damaged.append((str(source.path), str(damage)))
            stamp = ""
        while self.pool.pending:
            self._collect()
        self._flush(1)
        if stamp:
            self.journal.finish(str(source.path), stamp)

    def _pages(self, source: Source) -> None:
        # Only an archive can hold one name twice; a folder of millions needs no memory of its names.
        taken: Counter[int] | None = Counter() if source.kind == "archive" else None
        for page in source.pages(self.limits, self._advance):
            self.stop.check()
            if page.refused:
                self.summary.skipped[page.refused] += 1
                continue
            place, tag = self.journal.place(str(source.path), page.group)
            name = names.text_name(page.member)
            if taken is not None:
                same = hash(name.casefold())
                taken[same] += 1
                name += f"~{taken[same]}" if taken[same] > 1 else ""
            name += tag
            identity = digest(page.member, page.stamp, name)
            if not self.journal.is_done(place, identity):
                self._submit(page, (place, page.group, identity, page.member), name)

    def _submit(self, page: Page, key: tuple[int, str, int, str], name: str) -> None:
        while self.pool.full:
            self._collect()
        target = self.root / page.group / f"{name}.txt"
        try:
            data = page.read()
        except Unusable as reason:
            target.unlink(missing_ok=True)
            return self._record(Result(key, FAILED, str(reason)))
        target.parent.mkdir(exist_ok=True)
        self.pool.submit(Task(key, data, target))

    def _collect(self) -> None:
        self._record(self.pool.result(self.stop.check))

    def _record(self, result: Result) -> None:
        place, group, identity, member = result.key
        summary = self.summary
        summary.kept += result.outcome == KEPT
        summary.empty += result.outcome == EMPTY
        if result.outcome == FAILED:
            summary.failed += 1
            summary.reasons[kind_of(result.reason)] += 1
            if len(summary.examples) < EXAMPLES:
                summary.examples.append((ascii(member)[1:-1], result.reason))
        self.open_chunks.setdefault((place, group), []).append((identity, result.outcome, member, result.reason))
        self._flush(self.chunk_size)

    def _flush(self, least: int) -> None:
        for (place, group), pages in self.open_chunks.items():
            if len(pages) >= least:
                if (self.root / group).exists():
                    sync_folder(self.root / group)
                self.journal.add(place, pages)
                pages.clear()

    def _advance(self, amount: int) -> None:
        self.stop.check()
        self.bar.update(amount)
