"""Machines by their makers' figures, for runs that are foretold on them; or this machine, by what is measured on it.

Figures are of one device as TensorFlow counts them: a GPU, a TPU chip (of v3: one of the chip's two cores). Peaks are of dense
products, links are what a device sends in one direction, half of what makers call bidirectional. Where Google names no link,
it is the pod's all-reduce bandwidth divided by its devices.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from tfgpt.config import Config
from tfgpt.errors import UserError, nearest

USABLE = 0.94  # of a device's memory; the rest stays with drivers and runtime, as TensorFlow leaves it


@dataclass(frozen=True)
class Hardware:
    """One kind of device and how many are joined; FLOP/s, bytes, and bytes a second.

    half               dense products of bfloat16 matrices (of float16 ones, where `best` says so)
    float32            of float32 matrices: TF32 on GPUs that have it; TPUs multiply them as bfloat16, XLA's default
    best               what `precision` "auto" chooses there
    memory             of one device
    memory_bandwidth   between a device and its memory
    link               what a device sends to its neighbours; None: nobody knows
    node               devices joined by such links: the GPUs of a machine, the largest slice of a TPU
    network            what a node sends to others; None: nobody knows, or (TPUs) a run cannot go beyond a node
    """

    name: str
    kind: str
    half: float
    float32: float
    best: str
    memory: float
    memory_bandwidth: float
    link: float | None
    node: int
    network: float | None
    source: str = "your own figures"

    def peak(self, precision: str) -> float:
        """FLOP/s of products in `precision`; a type that the device has no units for is no faster than float32."""
        fast = precision == self.best or (precision == "float16" and self.kind == "GPU")
        return self.half if fast and precision != "float32" else self.float32

    @property
    def usable(self) -> float:
        """Bytes that a run may take on one device."""
        return self.memory if self.kind == "CPU" else USABLE * self.memory


TPU_DOCS = "cloud.google.com/tpu/docs"
TABLE = {
    found.name: found
    for found in (
        Hardware("v3", "TPU", 61.5e12, 61.5e12, "bfloat16", 16 * 2**30, 450e9, 166e9, 2048, None, f"{TPU_DOCS}/v3"),
        Hardware("v4", "TPU", 275e12, 275e12, "bfloat16", 32 * 2**30, 1200e9, 268e9, 4096, None, f"{TPU_DOCS}/v4"),
        Hardware("v5e", "TPU", 197e12, 197e12, "bfloat16", 16e9, 819e9, 200e9, 256, None, f"{TPU_DOCS}/v5e"),
        Hardware("v5p", "TPU", 459e12, 459e12, "bfloat16", 95e9, 2765e9, 600e9, 6144, None, f"{TPU_DOCS}/v5p"),
        Hardware("v6e", "TPU", 918e12, 918e12, "bfloat16", 32e9, 1638e9, 400e9, 256, None, f"{TPU_DOCS}/v6e"),
        Hardware("t4", "GPU", 65e12, 8.1e12, "float16", 16e9, 320e9, 16e9, 4, None, "NVIDIA T4 datasheet; PCIe 3.0 x16"),
        Hardware(
            "v100", "GPU", 125e12, 15.7e12, "float16", 32e9, 900e9, 150e9, 8, 50e9,
            "NVIDIA V100 SXM2 datasheet; DGX-1: 4 x 100 Gb/s",
        ),
        Hardware(
            "a100", "GPU", 312e12, 156e12, "bfloat16", 80e9, 2039e9, 300e9, 8, 200e9,
            "NVIDIA A100 SXM 80GB datasheet; DGX A100: 8 x 200 Gb/s",
        ),
        Hardware(
            "h100", "GPU", 989e12, 494e12, "bfloat16", 80e9, 3350e9, 450e9, 8, 400e9,
            "NVIDIA H100 SXM datasheet (half of its figures with sparsity); DGX H100: 8 x 400 Gb/s",
        ),
        Hardware(
            "h200", "GPU", 989e12, 494e12, "bfloat16", 141e9, 4800e9, 450e9, 8, 400e9,
            "NVIDIA H200 SXM datasheet (half of its figures with sparsity); DGX H200: 8 x 400 Gb/s",
        ),
    )
}  # fmt: skip
HERE = ("this", "cpu")


def find(words: str, config: Config) -> Hardware:
    """The hardware of a name, or of a JSON file, with what `,key=value` changes of it.

    >>> from tfgpt import config
    >>> find("h100,network=50e9", config.load("117M", check_files=False)).network
    50000000000.0
    """
    name, *changes = words.split(",")
    known = [*TABLE, *HERE]
    if name.lower() in HERE:
        base = this(config)
    elif name.lower() in TABLE:
        base = TABLE[name.lower()]
    elif name.endswith(".json"):
        return _changed(None, _read(name), changes)
    else:
        raise UserError(
            f'no hardware is called "{name}"',
            where="--hardware",
            nearest=nearest(name, known) or f"one of {', '.join(known)}",
            fix="name one of these, with what differs (h100,memory=94e9), or a JSON file with your own figures",
        )
    return _changed(base, {}, changes)


def _read(path: str) -> dict[str, Any]:
    try:
        found = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"no hardware can be read from it: {error}", where=path, fix=f"write {_example()}") from None
    if not isinstance(found, dict):
        raise UserError("it holds no JSON object", where=path, fix=f"write {_example()}")
    return {"name": Path(path).stem, **found}


def _example() -> str:
    figures = {key: value for key, value in asdict(TABLE["h100"]).items() if key not in ("name", "source")}
    return json.dumps(figures)


def _changed(base: Hardware | None, written: dict[str, Any], changes: list[str]) -> Hardware:
    """`base`, or nothing, with other figures; every mistake in them is the user's."""
    values = dict(written)
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise UserError(f'"{change}" changes nothing', where="--hardware", nearest=f'"{key}=NUMBER"')
        values[key] = value
    known = [field.name for field in fields(Hardware)]
    for key, value in values.items():
        if key not in known:
            raise UserError(f'no figure is called "{key}"', where="--hardware", nearest=nearest(key, known))
        values[key] = _value(key, value)
    missing = [] if base else [key for key in known if key != "source" and key not in values]
    if missing:
        raise UserError(f"{', '.join(missing)} not given", where="--hardware", fix=f"write {_example()}")
    if base and values:
        values.setdefault("source", f"{base.source}, changed by you")
    return replace(base, **values) if base else Hardware(**values)


def _value(key: str, value: Any) -> Any:
    choices = {"kind": ("GPU", "TPU", "CPU"), "best": ("bfloat16", "float16", "float32")}
    if key in ("name", "source"):
        return str(value)
    if key in choices:
        if value not in choices[key]:
            raise UserError(f'{key} "{value}"', where="--hardware", nearest=f"one of {', '.join(choices[key])}")
        return value
    if value is None and key in ("link", "network"):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < 1e30 or (key == "node" and number % 1):
        raise UserError(
            f"{key} is {value!r}", where="--hardware", nearest=f"{key}=8" if key == "node" else f"{key}=1e9"
        )
    return int(number) if key == "node" else number


def this(config: Config) -> Hardware:
    """This machine as one device, by what is measured on it, in half a second; several stand for several such machines.

    Between them there is nothing to measure: a process sends to itself, which is the most that one machine could take.
    """
    # Imported here, as they bring the whole of TensorFlow in.
    from tfgpt.training import distribution, estimates
    from tfgpt.training.peak import matrix_peak, memory_speed

    place = distribution.place(config)
    peaks = {precision: matrix_peak(place.kind, precision) for precision in {"float32", place.precision}}
    return Hardware(
        name="this machine",
        kind=place.kind,
        half=peaks[place.precision],
        float32=peaks["float32"],
        best=place.precision,
        memory=float(estimates.free_memory(place.kind) or 0),
        memory_bandwidth=memory_speed(place.kind),
        link=loopback() if place.kind == "CPU" else None,
        node=1 if place.kind == "CPU" else place.replicas,
        network=loopback() if place.kind == "CPU" else None,
        source="measured now",
    )


def loopback(size: int = 128 << 20, piece: int = 1 << 20) -> float:
    """Bytes a second that a thread sends to another over 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            with socket.create_connection(server.getsockname()) as out:
                for _ in range(size // piece):
                    out.sendall(bytes(piece))

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        source, _ = server.accept()
        with source:
            buffer, left, started = bytearray(piece), size, time.perf_counter()
            while left > 0 and (count := source.recv_into(buffer)):
                left -= count
        sender.join()
    return size / (time.perf_counter() - started)
