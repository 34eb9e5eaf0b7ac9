"""The same encode as a real Beam pipeline gives the same bytes."""

from __future__ import annotations

import gzip
import json

import pytest

from tests.data.conftest import contents, run, write_texts
from tfgpt.errors import UserError


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """Small files, a large file in ranges and a compressed one in batches."""
    monkeypatch.setattr("tfgpt.data.sources.UNIT_BYTES", 6000)
    folder = write_texts(tmp_path / "texts", 30)
    lines = [json.dumps({"text": f"line {n} " * 20}) for n in range(300)]
    (folder / "a.jsonl").write_text("\n".join(lines))
    (folder / "b.jsonl.gz").write_bytes(
        gzip.compress("\n".join(lines[::-1] + lines[:9]).replace("line", "row").encode())
    )
    return folder


@pytest.mark.slow
def test_direct_runner_gives_the_same_records_and_ledger(mixed, tmp_path):
    pytest.importorskip("apache_beam")
    run(mixed, tmp_path / "local", shard_bytes=20_000)
    run(mixed, tmp_path / "beam", shard_bytes=20_000, runner="DirectRunner")
    assert contents(tmp_path / "beam") == contents(tmp_path / "local")
    spooled = tmp_path / "spool"
    run(mixed, tmp_path / "spooled", shard_bytes=20_000, runner="DirectRunner", spool=str(spooled))
    assert contents(tmp_path / "spooled") == contents(tmp_path / "local")


def test_a_pipeline_that_died_goes_on_with_what_is_missing(mixed, tmp_path):
    from tfgpt import tokenizers
    from tfgpt.data import beam, documents, sources

    units = sources.plan(sources.find([str(mixed)]).sources)
    spool, encoded = tmp_path / "spool", []
    spool.mkdir()
    tokenizer = tokenizers.from_name("byte")
    tokenizer.save(tmp_path / "tokenizer")
    for unit in units[::2]:
        beam.spool_unit(unit, str(spool), tokenizer, documents.Rules())
    before = contents(spool)
    pytest.importorskip("apache_beam")
    for step in beam.encoded_units(
        units, (0, 0), str(spool), str(tmp_path / "tokenizer"), documents.Rules(), runner="DirectRunner", options=[]
    ):
        encoded.append(step)
    assert encoded[-1][0] == (len(units), 0)
    after = contents(spool)
    assert {name: after[name] for name in before} == before and len(after) > len(before)
    assert sum(advance for _, advance, _ in encoded) == sum(unit.size for unit in units)


def test_without_beam_the_way_to_get_it_is_named(texts, tmp_path, monkeypatch):
    import builtins

    honest = builtins.__import__

    def refuse(name, *rest, **options):
        if name.startswith("apache_beam"):
            raise ImportError(name)
        return honest(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"tfgpt\[beam\]"):
        run(texts, tmp_path / "out", runner="DirectRunner")


@pytest.mark.slow
def test_jobs_that_share_a_spool_do_not_meet(tmp_path):
    pytest.importorskip("apache_beam")
    for name in "ab":
        write_texts(tmp_path / name, 6, seed=ord(name))
        run(tmp_path / name, tmp_path / f"beam-{name}", runner="DirectRunner", spool=str(tmp_path / "spool"))
        run(tmp_path / name, tmp_path / f"local-{name}")
        assert contents(tmp_path / f"beam-{name}") == contents(tmp_path / f"local-{name}")
    assert not any((tmp_path / "spool").iterdir()), "results of finished jobs are removed"
