"""The forecast of runs on other machines: against real runs of one and two processes, products counted in the graph, rings
that are walked step by step, and figures worked out by hand."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.model.conftest import made
from tests.training import small
from tests.training.test_replicas import free_ports
from tfgpt import config as configs
from tfgpt.config import Config
from tfgpt.errors import UserError
from tfgpt.model.shape import Shape
from tfgpt.training import estimates, hardware, scale
from tfgpt.training.hardware import TABLE, Hardware
from tfgpt.training.peak import memory_speed

TOY = Hardware("toy", "GPU", 2e12, 1e12, "bfloat16", 2e9, 1e11, 1e10, 4, 2e9)
REAL = {
    "n_embd": 512, "n_layer": 2, "n_head": 8, "n_ctx": 64, "max_steps": 12, "eval_steps": 0, "save_steps": 1000, "xla": "auto",
}  # fmt: skip


def gpt2(**keys) -> Config:
    return configs.load("117M", [f"{key}={value}" for key, value in keys.items()], check_files=False)


class Process:
    """The command in a process of its own, on one core, and the height of its memory."""

    def __init__(self, core: int, *words: object) -> None:
        self.running = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *map(str, words)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        self.peak = 0

    def works(self) -> bool:
        with suppress(OSError):
            lines = Path(f"/proc/{self.running.pid}/status").read_text().splitlines()
            self.peak = max([self.peak, *(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))])
        return self.running.poll() is None


@pytest.mark.skipif("TFGPT_LONG" not in os.environ, reason="half a minute of real processes; TFGPT_LONG=1 runs it")
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes are given a core each, which is Linux's")
def test_one_and_two_processes_take_what_was_foretold(data, tmp_path):
    """The command in processes with a core each; the peak is what these runs themselves measured before their first step."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("one core")
    fastest = 0.0

    def attempt(name: str, devices: int) -> tuple[float, float, float, float]:
        nonlocal fastest
        run, path = tmp_path / name, tmp_path / f"{name}.json"
        keys = {**small.KEYS, **REAL, "data_path": str(data), "model_path": str(run), "train_batch_size": 4 * devices}
        path.write_text(json.dumps(keys))
        workers = ["--workers", ",".join(f"127.0.0.1:{port}" for port in free_ports(2))] if devices == 2 else []
        numbers = [["--worker", i] if workers else [] for i in range(devices)]
        processes = [Process(cores[i], "--model", path, *workers, *number) for i, number in enumerate(numbers)]
        end = time.monotonic() + 240
        while any([process.works() for process in processes]):
            assert time.monotonic() < end
            time.sleep(0.01)
        outputs = [process.running.communicate()[0] for process in processes]
        assert [process.running.returncode for process in processes] == [0] * devices, outputs
        # Seconds of a step in the fastest call that compiled nothing.
        calls = [line for line in small.events(run, "train") if not line["seconds"]["compile"]]
        real = min((one["seconds"]["step"] + one["seconds"]["data"]) / len(one["losses"]) for one in calls)
        fastest = max(fastest, small.events(run, "start")[0]["peak_flops"] / devices)
        link = hardware.loopback()
        here = Hardware("here", "CPU", fastest, fastest, "float32", 1e10, memory_speed("CPU"), link, 1, link)
        shape = Shape.of(Config(**keys), 257)
        step = scale.forecast(Config(**keys), shape, here, devices=devices)
        memory = scale.memory(Config(**keys), shape, here, devices=devices).total
        print(f"{step}; {step.step:.4f} s, really {real:.4f}; {memory:,} bytes, really {processes[0].peak:,}")
        return step.step, real, memory, processes[0].peak

    for devices in (1, 2):
        # On a machine with much else to do a core is not a core; then once more.
        for number in range(2):
            foretold, real, memory, peak = attempt(f"run-{devices}-{number}", devices)
            if 1 / 3 < foretold / real < 3:
                break
        assert 1 / 3 < foretold / real < 3, (devices, foretold, real)
        assert abs(memory / peak - 1) < 0.25, (devices, memory, peak)


SHAPES = {
    "plain": {"n_ctx": 64},
    "long, much vocabulary": {"n_ctx": 1024, "n_layer": 1, "n_vocab": 5000},
    "recompute": {"n_ctx": 64, "recompute": "block"},
    "recompute 2 of 3": {"n_ctx": 64, "n_layer": 3, "recompute": 2},
    "sliding": {"n_ctx": 700, "attention_types": [[["sliding", "global"], 1]], "attention_window": 100},
    "local": {"n_ctx": 320, "local": True, "fixed_attn_block_size": 32, "layer_offset": 8},
}


@pytest.mark.parametrize("name", SHAPES)
def test_work_is_that_of_the_products_in_the_graph(name):
    import tensorflow as tf

    gpt = made(**{"n_embd": 64, "n_head": 4, "n_layer": 2, "n_vocab": 500, **SHAPES[name]})
    length = gpt.form.n_ctx
    spec = tf.TensorSpec((2, length), tf.int32)
    run = lambda ids, labels: gpt.parts().gradients(gpt.values(), ids, labels, names=list(gpt.table))[1]  # noqa: E731
    flops = 0
    for operation in tf.function(run).get_concrete_function(spec, spec).graph.get_operations():
        if "MatMul" in operation.type:
            turned = operation.get_attr("transpose_a" if operation.type == "MatMul" else "adj_x")
            inner = operation.inputs[0].shape[-2 if turned else -1]
            flops += 2 * math.prod(operation.outputs[0].shape) * inner
    settings = small.config(n_layer=3, recompute=SHAPES[name].get("recompute", "none"))
    assert scale.work(settings, gpt.form) * 2 * length == pytest.approx(flops, rel=1e-6)


def walked(parts: np.ndarray) -> np.ndarray:
    """A ring all-reduce of rows [N, pieces, size], piece by piece; numbers that each member sent on."""
    count = len(parts)
    sent = np.zeros(count)
    for first, add in ((0, True), (1, False)):
        for turn in range(count - 1):
            moved = [(i, (i + first - turn) % count) for i in range(count)]
            pieces = [parts[i, piece].copy() for i, piece in moved]
            for (i, piece), values in zip(moved, pieces, strict=True):
                there = parts[(i + 1) % count]
                there[piece] = there[piece] + values if add else values
                sent[i] += values.size
    return sent


@pytest.mark.parametrize(("devices", "node"), [(2, 8), (8, 8), (6, 6), (12, 4), (32, 8)])
def test_the_exchange_sends_what_rings_send(devices, node):
    """Rings inside of nodes, and between them one for the part that each device has of the sum."""
    joined, nodes = min(devices, node), max(1, devices // node)
    size = joined * nodes * 6
    values = np.random.default_rng(1).integers(0, 9, (nodes, joined, size)).astype(float)
    inside = [walked(one.reshape(joined, joined, -1)) for one in values.copy()][0] / size
    across = 0.0
    if nodes > 1:
        parts = values.sum(axis=1).reshape(nodes, joined, nodes, -1)
        rings = [parts[:, i].copy() for i in range(joined)]
        across = sum(walked(ring)[0] for ring in rings) / size  # of one node, for all its devices
        assert all((ring == ring[0]).all() for ring in rings)
    here = replace(TOY, node=node)
    found = scale.exchange_seconds(1000, here, devices=devices)
    share = scale.LINK_SHARE["GPU"]
    assert found == pytest.approx((inside[0] * 1000 / (share * 1e10), across * 1000 / (share * 2e9)))


def test_a_forecast_by_hand():
    config, shape = gpt2(train_batch_size=64), Shape.of(gpt2())
    weights = sum(map(math.prod, shape.weights.values()))
    step = scale.forecast(config, shape, TOY, devices=8, efficiency=0.5)
    work = 8 * 1024 * scale.work(config, shape)
    assert step.products == pytest.approx(work / (0.5 * 1e12))
    # Gradients twice, weights in and out, both moments in and out.
    assert step.update == pytest.approx(4 * 8 * weights / 1e11)
    assert step.inside == pytest.approx(2 * 3 / 4 * 4 * weights / 0.8e10)
    assert step.across == pytest.approx(2 * 1 / 2 * 4 * weights / (0.8 * 2e9))
    assert step.step == step.products + step.update + step.inside + step.across
    assert step.tokens_per_second == 64 * 1024 / step.step
    assert step.share_of_peak == pytest.approx(shape.training_flops * step.tokens_per_second / (8 * 1e12))
    # Without efficiency and exchange it would be the rate of the peak.
    lone = scale.forecast(
        gpt2(train_batch_size=4096), shape, replace(TOY, memory_bandwidth=1e20), devices=1, efficiency=1
    )
    assert lone.share_of_peak == pytest.approx(shape.training_flops / scale.work(config, shape))
    faster = scale.forecast(gpt2(precision="auto"), shape, TOY, devices=1)
    assert scale.forecast(gpt2(), shape, TOY, devices=1).products == pytest.approx(2 * faster.products)


def test_sums_over_micro_batches_go_through_memory():
    shape = Shape.of(gpt2())
    more = scale.update_bytes(gpt2(accumulate=4), shape) - scale.update_bytes(gpt2(), shape)
    assert more == 4 * 3 * scale.gradient_bytes(gpt2(), shape)
    some = gpt2().model_copy(update={"trainable": ["h.11.*"]})
    assert scale.gradient_bytes(some, shape) == 4 * (12 * 768**2 + 13 * 768)


def test_memory_is_that_of_one_device():
    config, shape = gpt2(train_batch_size=32), Shape.of(gpt2())
    h100 = TABLE["h100"]
    four = scale.memory(config, shape, h100, devices=4)
    plain = estimates.memory(gpt2(train_batch_size=8), shape, replicas=1, xla=True, precision="float32", kind="GPU")
    assert (four.weights, four.optimizer, four.activations) == (plain.weights, plain.optimizer, plain.activations)
    assert four.gradients == 3 * plain.gradients
    # Processes on CPUs have a memory each, where replicas in one process share it.
    cpu = replace(TOY, kind="CPU", node=1)
    assert scale.memory(config, shape, cpu, devices=4).weights == plain.weights


@pytest.mark.parametrize("name", ["t4", "v5e"])
def test_the_largest_batch_just_fits_and_so_does_the_remedy(name):
    where, shape = TABLE[name], Shape.of(gpt2())

    def total(windows, **keys):
        return scale.memory(gpt2(train_batch_size=4 * windows, **keys), shape, where, devices=4).total

    for keys in ({}, {"recompute": "block"}):
        most = scale.most_windows(gpt2(**keys), shape, where, devices=4)
        assert most > 1 and total(most, **keys) <= where.usable < total(most + 1, **keys)
    found = scale.remedy(gpt2(train_batch_size=2048), shape, where, devices=4)
    assert found.total == scale.memory(found.config, shape, where, devices=4).total <= where.usable
    large = configs.load("1.5B", check_files=False)
    assert scale.most_windows(large, Shape.of(large), where, devices=4) == 0
    assert scale.remedy(large, Shape.of(large), where, devices=4) is None


@pytest.mark.parametrize(
    ("where", "devices", "nearest"),
    [
        (TABLE["v5p"], 12, "24"),  # of a batch of 32
        (TABLE["v5e"], 512, "256"),
        (TABLE["h100"], 12, "8"),
        (TABLE["h100"], 0, "1"),
    ],
)
def test_what_the_product_cannot_do_is_refused_with_the_nearest_it_can(where, devices, nearest):
    with pytest.raises(UserError) as caught:
        scale.check(gpt2(), where, devices=devices)
    assert caught.value.nearest == nearest


def test_links_that_nobody_knows_are_asked_for():
    with pytest.raises(UserError, match="network of t4") as caught:
        scale.check(gpt2(), TABLE["t4"], devices=8)
    fix = caught.value.fix.removeprefix("--hardware ").replace("BYTES_A_SECOND", "4e9")
    scale.check(gpt2(), hardware.find(fix, gpt2()), devices=8)
    scale.check(gpt2(), TABLE["t4"], devices=4)


def test_hardware_of_your_own(tmp_path):
    changed = hardware.find("h100,memory=94e9,node=4", gpt2())
    assert (changed.memory, changed.node, changed.link) == (94e9, 4, TABLE["h100"].link)
    assert "changed by you" in changed.source and hardware.find("H100", gpt2()) == TABLE["h100"]
    figures = json.loads(hardware._example())
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**figures, "network": None}))
    mine = hardware.find(f"{path},link=1e9", gpt2())
    assert (mine.name, mine.network, mine.link, mine.half) == ("mine", None, 1e9, TABLE["h100"].half)
    for words, nearest in (
        ("h10", '"h100"'),
        ("h100,lnk=1", '"link"'),
        ("h100,link=fast", "link=1e9"),
        ("h100,node=2.5", "node=8"),
        ("h100,link", '"link=NUMBER"'),
        ("h100,kind=CPUS", "one of GPU, TPU, CPU"),
    ):
        with pytest.raises(UserError) as caught:
            hardware.find(words, gpt2())
        assert caught.value.nearest == nearest
    path.write_text('{"kind": "GPU"}')
    with pytest.raises(UserError, match="half, float32, best, memory"):
        hardware.find(str(path), gpt2())
    path.write_text("[")
    with pytest.raises(UserError, match="no hardware can be read"):
        hardware.find(str(path), gpt2())


def test_peaks_of_types():
    v100, a100, v5p = TABLE["v100"], TABLE["a100"], TABLE["v5p"]
    assert v100.peak("float16") == 125e12 and v100.peak("bfloat16") == v100.peak("float32") == 15.7e12
    assert a100.peak("float16") == a100.peak("bfloat16") == 2 * a100.peak("float32")
    assert scale.precision(gpt2(precision="auto"), v5p) == "bfloat16" and scale.precision(gpt2(), v5p) == "float32"


def test_this_machine_is_measured():
    found = hardware.this(small.config())
    assert found.kind == "CPU" and found.node == 1 and found.best == "float32"
    # Wide enough for any machine, narrow enough for a slip of three digits.
    assert 1e9 < found.half == found.float32 < 1e14 and 3e8 < found.memory_bandwidth < 1e13
    assert 3e7 < found.link < 1e12 and 1e8 < found.memory < 1e14


def test_the_figures_in_the_docs_are_those_of_the_table():
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text, re.M))
    written = {}
    for name, row in rows.items():
        if name in TABLE:
            numbers = [None if cell in ("", "-") else float(cell.replace(",", "")) for cell in row.split(" | ")[:7]]
            written[name] = numbers
    assert written == {
        name: [
            found.half / 1e12, found.float32 / 1e12, round(found.memory / 1e9, 1), found.memory_bandwidth / 1e9,
            found.link / 1e9, found.node, found.network and found.network / 1e9,
        ]
        for name, found in TABLE.items()
    }  # fmt: skip
