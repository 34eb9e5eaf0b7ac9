"""What is asked of this machine: its heap while a model trains, its vectors in what XLA compiles."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

from tfgpt import machine

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's heap can be told what to do")

# Arrays come, a compiler leaves things between them, the arrays go; then others come that fit into no hole.
SCRIPT = """
import ctypes, json
from tfgpt import machine
from tfgpt.training.probe import resident
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
MB = 1 << 20

def arrays(count, size):
    found = [libc.malloc(size) for _ in range(count)]
    for place in found:
        libc.memset(place, 1, size)
    return found

def work():
    for round in range(8):  # others each time, as many bytes in all
        for place in arrays(60 // (round + 1), 4 * MB * (round + 1)):
            libc.free(place)

machine.one_heap(for_all=True)
before = resident()[0]
def compile():
    for _ in range(60):
        place = arrays(1, 4 * MB)[0]
        mark.append(libc.malloc(100_000))
        held.append(place)
    for place in held:
        libc.free(place)
mark, held = [], []
if %s:
    with machine.room_made():
        compile()
else:
    compile()
work()
print(json.dumps((resident()[0] - before) / MB))
"""


def grown(made: bool) -> float:
    done = subprocess.run([sys.executable, "-c", SCRIPT % made], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@glibc
def test_room_is_made_beside_what_a_compiler_left():
    # 240 MB are in use at a time. Without room of their own they lie beside holes of as much.
    assert grown(made=True) < 270 < 400 < grown(made=False)


@pytest.mark.parametrize(
    ("flags", "before", "after"),
    [
        ("avx2 avx512f avx512_bf16", None, "--xla_cpu_prefer_vector_width=512"),
        ("avx512_bf16", "--xla_dump_to=x", "--xla_dump_to=x --xla_cpu_prefer_vector_width=512"),
        ("avx512_bf16", "--xla_cpu_prefer_vector_width=128", "--xla_cpu_prefer_vector_width=128"),
        ("avx2 avx512f", None, None),  # the first of them slow down
        ("", None, None),
    ],
)
def test_wide_vectors_only_where_they_are_no_slower(flags, before, after, monkeypatch):
    monkeypatch.setattr(machine, "processor", {"flags": flags}.get)
    environment = {} if before is None else {"XLA_FLAGS": before}
    monkeypatch.setattr(os, "environ", environment)
    machine.wide_vectors()
    assert environment.get("XLA_FLAGS") == after


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 6),
        ({"cpu.max": "max 100000"}, 6),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "20000 100000"}, 1),
        ({"cpu.max": "1600000 100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 6),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        ({"cpu.max": "nonsense"}, 6),
    ],
)
def test_cores_are_those_that_a_container_may_use(files, expected, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "GROUPS", str(tmp_path))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6), raising=False)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    assert machine.cores() == expected
