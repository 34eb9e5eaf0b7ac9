"""The same encode as an Apache Beam pipeline: workers anywhere, one merge here.

Each unit of work is one element. A worker reads it, encodes its batches exactly as a local process does and writes them to
spool files under a folder that all machines see (a local one for DirectRunner, a gs:// one through --spool for
Dataflow, Flink or Spark). The merger then appends them in unit order, so records and ledger are the same to the last byte.
Spool files appear whole or not at all, so a pipeline that died goes on with the units that are still missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence

from tfgpt import files, tokenizers
from tfgpt.data import documents, ledger, workers
from tfgpt.data.documents import Encoded, Rules
from tfgpt.data.sources import Unit
from tfgpt.data.workers import Position, Step
from tfgpt.errors import Failure, UserError


def encoded_units(
    units: Sequence[Unit],
    done: Position,
    spool: str,
    tokenizer_folder: str,
    rules: Rules,
    *,
    runner: str,
    options: Sequence[str],
) -> Iterator[Step]:
    """Run the pipeline over what is not spooled yet, then hand out everything behind `done` in order."""
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise UserError("--runner needs Apache Beam", fix='pip install "tfgpt[beam]"') from None
    files.make_folder(spool)
    missing = [unit for unit in units[done[0] :] if not files.exists(_last(spool, unit))]
    if missing:
        settings = PipelineOptions([f"--runner={runner}", *options], save_main_session=False)
        with beam.Pipeline(options=settings) as pipeline:
            _ = (
                pipeline
                | "units" >> beam.Create(missing)
                # Without it a runner may fuse the creation with the work and leave all of it to one machine.
                | "spread" >> beam.Reshuffle()
                | "encode" >> beam.ParDo(_spooler(beam)(spool, tokenizer_folder, rules))
            )
    for unit in units[done[0] :]:
        yield from _spooled(spool, unit, skip=done[1] if unit.number == done[0] else 0)


def spool_unit(unit: Unit, spool: str, tokenizer: tokenizers.Tokenizer, rules: Rules) -> int:
    """Encode one unit into spool files; the last one, which tells how many there are, says that it is complete."""
    count = 0
    for batch in workers.batches(unit, rules):
        files.write_bytes(_name(spool, unit, count), documents.encode(batch, tokenizer, rules).to_bytes())
        count += 1
    files.write_text(_last(spool, unit), str(count))
    return count


def _spooler(beam):
    """The DoFn, made here because Beam is imported only when a runner is asked for."""

    class Spool(beam.DoFn):
        def __init__(self, spool: str, tokenizer_folder: str, rules: Rules) -> None:
            self.spool, self.tokenizer_folder, self.rules = spool, tokenizer_folder, rules

        def setup(self) -> None:
            self.tokenizer = tokenizers.load(self.tokenizer_folder)

        def process(self, unit: Unit):
            yield unit.number, spool_unit(unit, self.spool, self.tokenizer, self.rules)

    return Spool


def _spooled(spool: str, unit: Unit, *, skip: int) -> Iterator[Step]:
    if not files.exists(_last(spool, unit)):
        raise Failure(
            f"the pipeline ended without unit {unit.number}",
            where=spool,
            fix="look at the runner's own messages, then run the same command again",
        )
    count = int(files.read_bytes(_last(spool, unit)))
    for number in range(count):
        name = _name(spool, unit, number)
        if number >= skip:
            encoded = Encoded.from_bytes(files.read_bytes(name))
            last = number == count - 1
            yield ((unit.number + 1, 0) if last else (unit.number, number + 1)), (unit.size if last else 0), encoded


def clean(spool: str) -> None:
    """Remove the results of a job whose data set is finished."""
    for path, _ in list(files.walk(spool)):
        files.remove(path)
    if not files.is_remote(spool):
        shutil.rmtree(spool)


def _name(spool: str, unit: Unit, number: int) -> str:
    return files.join(spool, f"unit-{unit.number:08}-{number:06}")


def _last(spool: str, unit: Unit) -> str:
    return files.join(spool, f"unit-{unit.number:08}-count")


def tokenizer_folder_for(output: str, spool: str) -> str:
    """Where workers find the tokenizer: beside the data, or copied into a bucket that distant workers can see."""
    folder = files.join(output, ledger.TOKENIZER_FOLDER)
    if not files.is_remote(spool):
        return folder
    target = files.join(spool, ledger.TOKENIZER_FOLDER)
    tokenizers.load(folder).save(target)
    return target
