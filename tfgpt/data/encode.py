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
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfgpt import files, tokenizers
from tfgpt.data import ledger, readers, sources, vocabulary, workers
from tfgpt.data.documents import Rules
from tfgpt.data.job import Job
from tfgpt.data.ledger import Ledger
from tfgpt.data.merger import Merger
from tfgpt.errors import Failure, UserError
from tfgpt.locks import folder_lock
from tfgpt.progress import Progress
from tfgpt.signals import StopRequest
from tfgpt.tokenizers import Tokenizer

WORK = ".encode"
ENOUGH_DOCUMENTS = 20  # expected in eval; with fewer, the end of each document is held out instead
VERSION = 1  # changes when the same input and rules would give other bytes


def encode(job: Job) -> Ledger:
    """Run the job to its end, going on where an earlier, interrupted one stopped; returns the ledger.

    >>> encode(Job(["my_text"], "data/my_text"))   # doctest: +SKIP
    """
    if files.is_remote(job.output):
        return _encode_remote(job)
    output = Path(job.output)
    work = output / WORK
    found = sources.find(job.inputs, format=job.format, leave_out=job.output)
    if job.by_content:
        found = replace(found, sources=sources.by_content(found.sources))
    with folder_lock(work / "lock", purpose="an encode"):
        try:
            return _encode_local(job, output, work, found)
        finally:
            if not (work / "state.json").exists():  # finished, or refused before anything was done
                shutil.rmtree(work, ignore_errors=True)
                if not any(output.iterdir()):
                    output.rmdir()


def _encode_local(job: Job, output: Path, work: Path, found: sources.Found) -> Ledger:
    if job.restart:
        _clear(output, job.name)
    units = sources.plan(found.sources)
    rules = _settle_split(job, units)
    tokenizer = vocabulary.given(job.tokenizer, encoder_path=job.encoder_path, found=found.sources)
    # Whether this job was finished, or begun, has to be known before anything is written, a trained tokenizer included.
    fingerprint = _fingerprint(job, rules, found.sources, tokenizer)
    if finished := _already_done(job.published or job.output, fingerprint, restart=job.restart):
        return finished
    state = _resume_state(output, fingerprint)
    remaining = sum(u.size for u in units) - (state["source_bytes"] if state else 0)
    files.require_space(output, int(0.7 * max(remaining, 0)), purpose="the TFRecords")
    folder = output / ledger.TOKENIZER_FOLDER
    if state:
        tokenizer = tokenizers.load(folder)
    else:
        tokenizer = tokenizer or vocabulary.train(
            job.tokenizer, found=found.sources, key=job.rules.key, fix_text=job.rules.fix_text
        )
        tokenizer.save(folder)
    merger = Merger(job, rules, output, work, fingerprint, state)
    try:
        merger.commit()
        _run(job, rules, units, merger, found.skipped)
        result = merger.finish(tokenizer, found.sources)
    except OSError as error:
        raise _disk_failure(error, output) from error
    finally:
        merger.close()
    (work / "state.json").unlink()
    return result


def _run(job: Job, rules: Rules, units: list[sources.Unit], merger: Merger, skipped: Any) -> None:
    if skipped and not job.quiet:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in skipped.most_common(5))
        print(f"passed by, not text: {kinds}")
    total = sum(unit.size for unit in units)
    with Progress("encode", total=total, initial=merger.source_bytes) as bar:
        if job.runner:
            from tfgpt.data import beam

            spool = job.spool or str(merger.work / "spool")
            folder = beam.tokenizer_folder_for(str(merger.output), spool)
            stream = beam.encoded_units(
                units, merger.done, spool, folder, rules, runner=job.runner, options=job.runner_options
            )
        else:
            stream = workers.encoded_units(units, merger.done, merger.output, rules, job.processes)
        # A signal is only looked at between two batches, so that what is committed is always whole.
        with StopRequest("stopped; run the same command again and it goes on from here") as stop:
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
    if job.rules.eval_fraction <= 0 or job.split == "none":
        return Rules(**{**job.rules.as_dict(), "split": "none"})  # type: ignore[arg-type]
    split = job.split
    if split == "auto":
        wanted = int(ENOUGH_DOCUMENTS / job.rules.eval_fraction)
        split = "documents" if _at_least(units, wanted, job.rules.key) else "tail"
    return Rules(**{**job.rules.as_dict(), "split": split})  # type: ignore[arg-type]


def _at_least(units: list[sources.Unit], wanted: int, key: str) -> bool:
    count = 0
    for unit in units:
        if unit.kind == "files":
            count += len(unit.sources)
        else:
            for _ in readers.read(unit, key=key):
                count += 1
                if count >= wanted:
                    break
        if count >= wanted:
            return True
    return False


def _fingerprint(job: Job, rules: Rules, found: list[sources.Source], tokenizer: Tokenizer | None) -> str:
    """Names one job: the same input, rules and tokenizer. Number of processes and runner do not matter to the result."""
    settings = [VERSION, rules.as_dict(), job.name, job.drop_duplicates, job.shard_bytes, job.files_per]
    # A tokenizer that is trained on the input follows from its name and the input.
    marks = [settings, tokenizer.fingerprint if tokenizer else job.tokenizer, sources.listing(found)]
    return hashlib.sha256(json.dumps(marks).encode()).hexdigest()


def _already_done(output: str, fingerprint: str, *, restart: bool) -> Ledger | None:
    if restart or not files.exists(files.join(output, ledger.NAME)):
        return None
    present = ledger.read(output)
    if present.sources.get("fingerprint") == fingerprint:
        return present
    raise UserError(
        "this folder holds a finished data set made from other input or with other settings",
        where=output,
        fix="choose another --output, or add --restart to replace it",
    )


def _resume_state(output: Path, fingerprint: str) -> dict[str, Any] | None:
    path = output / WORK / "state.json"
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if state["fingerprint"] != fingerprint:
        raise UserError(
            "an encode of other input or with other settings was interrupted in this folder",
            where=str(output),
            fix="repeat that command to finish it, or add --restart to begin anew",
        )
    return state


def _clear(output: Path, name: str) -> None:
    """Remove a data set of ours, and nothing else that may lie in the folder."""
    for pattern in (f"{name}_*.tfrecords*", f"{name}-eval_*.tfrecords*", ledger.NAME):
        for path in output.glob(pattern):
            path.unlink()
    for path in (output / WORK).iterdir():
        if path.name != "lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
