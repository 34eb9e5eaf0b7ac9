"""Text to TFRecords: units of work go out to processes, come back in order, and are appended to shards.

Everything a unit becomes is a pure function of its bytes, and everything that depends on order (duplicates, shard borders,
the ledger) happens here, in one process, in unit order. So the output does not depend on the number of processes, nor on
how often the job was killed: `state.json` in the work folder is a snapshot taken every few seconds, replaced atomically
after the shards are on disk, and a new start goes on from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfgpt import files, tokenizers
from tfgpt.data import conversations, ledger, readers, sources, vocabulary, workers
from tfgpt.data.documents import Rules
from tfgpt.data.job import Job
from tfgpt.data.ledger import Ledger
from tfgpt.data.merger import Merger
from tfgpt.data.output import OutputFolder, finished
from tfgpt.errors import Failure, UserError
from tfgpt.locks import folder_lock
from tfgpt.progress import Progress
from tfgpt.signals import StopRequest
from tfgpt.tokenizers import Tokenizer

NAME = re.compile(r"[\w][\w.-]*")
ENOUGH_DOCUMENTS = 20  # expected in eval; with fewer, the end of each document is held out instead
TOKEN_BYTES = 4  # of English text, roughly; only to foresee whether the end of a document is worth holding out
VERSION = 1  # changes when the same input and rules would give other bytes


def encode(job: Job) -> Ledger:
    """Run the job to its end, going on where an earlier, interrupted one stopped; returns the ledger.

    >>> encode(Job(["my_text"], "data/my_text"))   # doctest: +SKIP
    """
    _check_settings(job)
    if files.is_remote(job.output):
        return _encode_remote(job)
    output = OutputFolder(Path(job.output), job.name)
    found = sources.find(job.inputs, format=job.format, leave_out=job.output, encoding=job.rules.encoding)
    if job.by_content:
        found = replace(found, sources=sources.by_content(found.sources))
    units = sources.plan(found.sources)
    rules = _settle_split(job, units)
    tokenizer = vocabulary.given(job.tokenizer, encoder_path=job.encoder_path, found=found.sources)
    # Whether this job was finished, or begun, has to be known before anything is written, a trained tokenizer included.
    fingerprint = _fingerprint(job, rules, found.sources, tokenizer)
    with folder_lock(output.work / "lock", purpose="an encode"):
        try:
            output.recover()
            if not job.restart and (present := finished(job.published or job.output, fingerprint)):
                output.end()
                return present
            state = None if job.restart else output.resume(fingerprint)
            return _encode_local(job, rules, output, units, found, tokenizer, fingerprint, state)
        finally:
            output.leave()


def _encode_local(
    job: Job,
    rules: Rules,
    output: OutputFolder,
    units: list[sources.Unit],
    found: sources.Found,
    tokenizer: Tokenizer | None,
    fingerprint: str,
    state: dict[str, Any] | None,
) -> Ledger:
    remaining = sum(u.size for u in units) - (state["source_bytes"] if state else 0)
    files.require_space(output.path, int(0.7 * max(remaining, 0)), purpose="the TFRecords")
    output.sweep()
    folder = output.path / ledger.TOKENIZER_FOLDER
    if state:
        tokenizer = tokenizers.load(folder)
    else:
        tokenizer = tokenizer or vocabulary.train(job.tokenizer, found=found.sources, rules=job.rules)
        output.set_aside()  # what --restart replaces
        output.clear()
        output.begin(fingerprint)
        tokenizer.save(folder)
    merger = Merger(job, rules, output.path, output.work, fingerprint, state)
    try:
        _run(job, rules, units, merger, found.skipped)
        result = merger.finish(tokenizer, found.sources)
    except OSError as error:
        raise _disk_failure(error, output.path) from error
    except UserError as error:
        merger.close()
        if merger.empty and not isinstance(error, Failure):
            # The command has to change and there is nothing to go on from. Work that was done is never thrown away here:
            # the mend may be to install a package and repeat the command.
            output.clear()
            output.bring_back()
        raise
    finally:
        merger.close()
    if job.runner:
        from tfgpt.data import beam

        beam.clean(_spool(job, merger))
    output.end()
    return result


def _check_settings(job: Job) -> None:
    """What can be wrong with a job before anything is read."""
    if not NAME.fullmatch(job.name):
        raise UserError(
            f'"{job.name}" cannot begin the name of a file', where="--name", nearest=f'"{re.sub("[^a-zA-Z0-9_.-]", "", job.name).lstrip(".") or "text"}"',
            fix="use letters, digits, dots, dashes and underscores",
        )  # fmt: skip
    try:
        b"a".decode(job.rules.encoding)
    except UnicodeDecodeError:
        pass  # an encoding of two or four bytes a character
    except LookupError:
        raise UserError(
            f'there is no text encoding "{job.rules.encoding}"',
            where="--encoding",
            nearest='"utf-8", "latin-1", "cp1252", "utf-16"',
        ) from None


def _spool(job: Job, merger: Merger) -> str:
    """Where Beam's workers leave results: apart for each job, as a shared folder may serve several."""
    return files.join(job.spool or str(merger.work / "spool"), merger.fingerprint[:16])


def _run(job: Job, rules: Rules, units: list[sources.Unit], merger: Merger, skipped: Any) -> None:
    if skipped and not job.quiet:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5))
        print(f"passed by: {kinds}")
    total = sum(unit.size for unit in units)
    with Progress("encode", total=total, initial=merger.source_bytes) as bar:
        if job.runner:
            from tfgpt.data import beam

            spool = _spool(job, merger)
            folder = beam.tokenizer_folder_for(str(merger.output), spool)
            stream = beam.encoded_units(
                units, merger.done, spool, folder, rules, runner=job.runner, options=job.runner_options
            )
        else:
            stream = workers.encoded_units(units, merger.done, merger.output, rules, job.processes)
        # A signal is only looked at between two batches, so that what is committed is always whole.
        with StopRequest("stopped; run the same command again and it goes on from here") as stop:
            merger.commit()
            try:
                for position, advance, encoded in stream:
                    merger.add(position, advance, encoded)
                    bar.update(advance)
                    if stop.requested:
                        merger.commit()
                    stop.check()
            finally:
                stream.close()


def _settle_split(job: Job, units: list[sources.Unit]) -> Rules:
    """Decide "auto": many documents are split whole, of a few the end of each is held out."""
    if any(source.format == "chat" for unit in units for source in unit.sources):
        return conversations.settle(job.rules, units, split=job.split, quiet=job.quiet)
    if job.rules.eval_fraction <= 0 or job.split == "none":
        return Rules(**{**job.rules.as_dict(), "split": "none"})  # type: ignore[arg-type]
    split = job.split
    if split == "auto":
        wanted = math.ceil(ENOUGH_DOCUMENTS / job.rules.eval_fraction)
        documents, size = _count(units, wanted, job.rules)
        end = size / max(documents, 1) * job.rules.eval_fraction / TOKEN_BYTES
        split = "documents" if documents >= wanted or end < 2 * job.rules.minimum_size else "tail"
    return Rules(**{**job.rules.as_dict(), "split": split})  # type: ignore[arg-type]


def _count(units: list[sources.Unit], wanted: int, rules: Rules) -> tuple[int, int]:
    """Documents and their bytes, as far as `wanted` documents."""
    count = size = 0
    for unit in units:
        if unit.kind == "files":
            count += len(unit.sources)
            size += unit.size
        else:
            for raw in readers.read(unit, key=rules.key, encoding=rules.encoding):
                count += 1
                size += raw.size
                if count >= wanted:
                    break
        if count >= wanted:
            break
    return count, size


def _fingerprint(job: Job, rules: Rules, found: list[sources.Source], tokenizer: Tokenizer | None) -> str:
    """Names one job: the same input, rules and tokenizer. Number of processes and runner do not matter to the result."""
    settings = [VERSION, rules.as_dict(), job.name, job.drop_duplicates, job.shard_bytes, job.files_per]
    # A tokenizer that is trained on the input follows from its name and the input.
    marks = [settings, tokenizer.fingerprint if tokenizer else job.tokenizer, sources.listing(found)]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def _encode_remote(job: Job) -> Ledger:
    """A bucket cannot be appended to: encode on this machine's disk, then send the whole, the ledger last."""
    staging = files.cache_folder() / "encode" / hashlib.sha256(job.output.encode()).hexdigest()[:16]
    result = encode(replace(job, output=str(staging), published=job.output))
    if not (staging / ledger.NAME).exists():
        return result  # it is there already
    paths = sorted((p for p in staging.rglob("*") if p.is_file()), key=lambda p: (p.name == ledger.NAME, str(p)))
    with Progress("upload", total=sum(p.stat().st_size for p in paths)) as bar:
        for path in paths:
            files.copy_in(path, files.join(job.output, path.relative_to(staging).as_posix()))
            bar.update(path.stat().st_size)
    shutil.rmtree(staging)
    return result


def _disk_failure(error: OSError, output: Path) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return error
    free = shutil.disk_usage(output).free
    return Failure(
        f"the disk is full ({free / 1e6:.0f} MB free); what was encoded so far is safe",
        where=str(output),
        fix="free some space and run the same command again: it goes on where it stopped",
    )
