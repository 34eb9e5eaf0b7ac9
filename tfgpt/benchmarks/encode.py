"""`tfgpt encode` beside the plain way (ftfy, then tiktoken, document by document) and beside bare tiktoken.

All three start the same number of fresh processes and read the same files. The peers throw their ids away; ours also
hashes, splits, drops duplicates, writes TFRecords, syncs them to the disk and takes their sha256.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

from tfgpt import tokenizers
from tfgpt.data import english
from tfgpt.data.encode import encode
from tfgpt.data.job import Job
from tfgpt.errors import UserError
from tfgpt.machine import cores

CURLY = str.maketrans({"'": "’", '"': "”"})  # typographic text: what web pages carry
CHUNK = 32  # files that a peer's process takes at a time


def run(*, source: str | None, encoder_path: str | None, megabytes: int, processes: int | None, repeats: int) -> None:
    """Time all contestants on plain and on typographic English, print a table and one JSON line."""
    processes = processes or cores()
    results = []
    with tempfile.TemporaryDirectory(prefix="tfgpt-bench-") as scratch:
        encoder = _encoder(encoder_path, Path(scratch))
        texts = {"given": Path(source)} if source else _english(Path(scratch), megabytes)
        for name, folder in texts.items():
            results.append(_compare(name, folder, encoder, processes, repeats, Path(scratch)))
    print(json.dumps({"bench": "encode", "processes": processes, "repeats": repeats, "results": results}))


def _compare(name: str, folder: Path, encoder: str, processes: int, repeats: int, scratch: Path) -> dict[str, object]:
    paths = sorted(str(p) for p in folder.rglob("*.txt"))
    size = sum(os.path.getsize(p) for p in paths)
    if not paths:
        raise UserError("no .txt file in this folder", where=str(folder))
    contestants = {
        "ours": lambda: _ours(folder, encoder, processes, scratch),
        "plain way": lambda: _peer(_fix_and_encode, paths, encoder, processes),
        "bare tiktoken": lambda: _peer(_encode_only, paths, encoder, processes),
    }
    seconds: dict[str, list[float]] = {contestant: [] for contestant in contestants}
    for _ in range(repeats):
        for contestant, action in contestants.items():
            started = time.perf_counter()
            action()
            seconds[contestant].append(time.perf_counter() - started)
    speeds = {c: size / 1e6 / statistics.median(s) for c, s in seconds.items()}
    print(f"{name} English: {len(paths):,} files, {size / 1e6:.1f} MB, {processes} processes, median of {repeats}")
    for contestant, speed in speeds.items():
        low, high = (size / 1e6 / s for s in (max(seconds[contestant]), min(seconds[contestant])))
        print(f"  {contestant:<14} {speed:6.1f} MB/s  ({low:.1f} to {high:.1f})")
    plain, bare = speeds["ours"] / speeds["plain way"], speeds["ours"] / speeds["bare tiktoken"]
    print(f"  ours is {plain:.2f} x the plain way and {bare:.0%} of bare tiktoken")
    return {
        "text": name,
        "mb": round(size / 1e6, 1),
        "mb_per_s": speeds,
        "x_plain": round(plain, 2),
        "of_tiktoken": round(bare, 3),
    }


def _ours(folder: Path, encoder: str, processes: int, scratch: Path) -> None:
    output = tempfile.mkdtemp(prefix="out-", dir=scratch)
    encode(Job([str(folder)], output, tokenizer=encoder, processes=processes, quiet=True))


def _peer(work, paths: list[str], encoder: str, processes: int) -> int:
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_begin, initargs=(encoder,)) as pool:
        return sum(pool.imap_unordered(work, paths, chunksize=CHUNK))


def _begin(encoder: str) -> None:
    """tiktoken as anybody would set it up from the same two files, without any code of ours."""
    global _tiktoken
    from tiktoken import Encoding
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    ranks = data_gym_to_mergeable_bpe_ranks(os.path.join(encoder, "vocab.bpe"), os.path.join(encoder, "encoder.json"))
    _tiktoken = Encoding(
        "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={"<|endoftext|>": len(ranks)}
    )


def _fix_and_encode(path: str) -> int:
    import ftfy

    text = Path(path).read_text(encoding="utf-8")
    return len(_tiktoken.encode_ordinary(ftfy.fix_text(text, normalization="NFKC")))


def _encode_only(path: str) -> int:
    return len(_tiktoken.encode_ordinary(Path(path).read_text(encoding="utf-8")))


def _encoder(encoder_path: str | None, scratch: Path) -> str:
    """A folder of encoder files: the given one, GPT-2's where it is at hand, or one trained on the spot."""
    if encoder_path is not None:
        return encoder_path
    folder = scratch / "encoder"
    try:
        tokenizer = tokenizers.from_name("gpt2")
    except UserError:
        print("GPT-2's encoder is not here (tfgpt download encoder); a trained one of 8,192 ids stands in")
        tokenizer = tokenizers.train_bpe((text for _, text in english.documents()), 8192)
    tokenizer.save(folder)
    return str(folder)


def _english(scratch: Path, megabytes: int) -> dict[str, Path]:
    """Documents of shuffled paragraphs, all different, of about web-page length; plain and with typographic marks."""
    paragraphs = [p for _, text in english.documents() for p in text.split("\n\n") if p.strip()]
    draw = random.Random(0)
    folders = {"plain": scratch / "plain", "typographic": scratch / "typographic"}
    for folder in folders.values():
        folder.mkdir()
    written = number = 0
    while written < megabytes * 1_000_000:
        text = "\n\n".join(draw.choices(paragraphs, k=draw.randint(5, 40))) + "\n"
        name = f"{number:07}.txt"
        (folders["plain"] / name).write_text(text, encoding="utf-8")
        (folders["typographic"] / name).write_text(text.replace(" -- ", " — ").translate(CURLY), encoding="utf-8")
        written += len(text)
        number += 1
    return folders
