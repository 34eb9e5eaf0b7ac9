"""The memory of hashes against a Python set."""

from __future__ import annotations

import random

from tfgpt.data.duplicates import SeenHashes


def test_equals_a_set_over_many_batches():
    draw = random.Random(3)
    seen, reference = SeenHashes(), set()
    for _ in range(200):
        batch = [
            b"%032x" % draw.choice([draw.getrandbits(128), draw.randrange(300), draw.randrange(300) << 64])
            for _ in range(draw.randrange(60))
        ]
        expected = []
        for item in batch:
            expected.append(item not in reference)
            reference.add(item)
        assert seen.add(batch).tolist() == expected


def test_memory_is_sixteen_bytes_a_document():
    draw = random.Random(4)
    seen = SeenHashes()
    for _ in range(50):
        seen.add([b"%032x" % draw.getrandbits(128) for _ in range(1000)])
    assert sum(run.nbytes for run in seen._runs) == 50_000 * 16 and len(seen._runs) < 12
