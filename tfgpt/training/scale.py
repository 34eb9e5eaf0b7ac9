"""What a run would take on other machines, on paper: memory of a device, time of a step, and what the time goes to.

Runs are data parallel: every device has all weights and its share of the batch. A step is

    products   the FLOPs of all products of matrices, at a share of the hardware's peak
  + update     the optimizer's pass over weights, gradients and its own memory, at the speed of the memory
  + exchange   the sum of the gradients over all devices: a ring inside a node, then a ring of nodes

one after the other, as the step works: it sums gradients once, after the last of them is there. The shares below are assumed;
everything else follows from the shape and the hardware. Evaluations, saves and waiting for data are not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tfgpt.config import Config
from tfgpt.errors import UserError
from tfgpt.model.attention import QUERIES
from tfgpt.model.layers import SMALL_VOCABULARY
from tfgpt.model.shape import Shape
from tfgpt.training import distribution, estimates
from tfgpt.training.estimates import Memory, Remedy, replace_keys
from tfgpt.training.hardware import Hardware

# Of the peak: on CPUs as measured in our benches. Elsewhere our steps have not been measured; others reach 0.33 (torchtitan on
# H100) to 0.65 (MaxText on v5p), so that this is neither the best nor the worst.
EFFICIENCY = {"CPU": 0.6, "GPU": 0.4, "TPU": 0.4}
OWN_EFFICIENCY = 0.85  # of a CPU whose step is our own code: 0.9 for large products, less for small ones
# Of a link: about what nccl-tests show inside and between machines. TensorFlow's collectives between CPU processes go through
# gRPC, which reached a fifth of what a bare socket did.
LINK_SHARE = {"CPU": 0.2, "GPU": 0.8, "TPU": 0.8}
# Copies of all gradients that exist while they are summed: packed and answered in new arrays. What gRPC makes of them between
# CPU processes was measured, with 26 and with 115 MB of gradients; the others are taken from what TensorFlow's code does.
COPIES = {"CPU": 5, "GPU": 2, "TPU": 2}


@dataclass(frozen=True)
class Forecast:
    """A step on `devices` devices, in seconds, and what there was to do in it.

    >>> Forecast(devices=2, tokens=100, flops=6.0, peak=1.0, products=8.0, update=0.5, inside=1.0, across=0.5).step
    10.0
    """

    devices: int
    tokens: int  # of the whole batch
    flops: float  # of the whole batch that count: those of `Shape.training_flops`
    peak: float  # FLOP/s of one device
    products: float
    update: float
    inside: float  # the exchange over links
    across: float  # and over the network

    @property
    def exchange(self) -> float:
        return self.inside + self.across

    @property
    def step(self) -> float:
        return self.products + self.update + self.exchange

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.step

    @property
    def share_of_peak(self) -> float:
        """Model FLOP utilisation: FLOPs that the model needs, of all that the hardware could have made (PaLM, appendix B)."""
        return self.flops / (self.step * self.peak * self.devices)


def forecast(
    config: Config, shape: Shape, hardware: Hardware, *, devices: int, efficiency: float | None = None
) -> Forecast:
    """A step of `config` on so many devices; UserError where the product cannot run so."""
    check(config, hardware, devices=devices)
    tokens = config.train_batch_size * config.n_ctx
    peak = hardware.peak(precision(config, hardware))
    share = efficiency or assumed_efficiency(config, hardware, devices=devices)
    size = gradient_bytes(config, shape)
    inside, across = exchange_seconds(size, hardware, devices=devices)
    return Forecast(
        devices=devices,
        tokens=tokens,
        flops=tokens * shape.training_flops,
        peak=peak,
        products=tokens / devices * work(config, shape) / (share * peak),
        update=update_bytes(config, shape) / hardware.memory_bandwidth,
        inside=inside,
        across=across,
    )


def assumed_efficiency(config: Config, hardware: Hardware, *, devices: int) -> float:
    """The share of the peak that products reach there."""
    own = by_own_code(config, hardware, devices=devices)
    return OWN_EFFICIENCY if own else EFFICIENCY[hardware.kind]


def by_own_code(config: Config, hardware: Hardware, *, devices: int) -> bool:
    """Whether `tfgpt.native` makes the steps there."""
    return bool(_about(config, hardware, devices)["own"])


def check(config: Config, hardware: Hardware, *, devices: int) -> None:
    """UserError if a run cannot be spread over so many devices in equal parts, or they are not joined."""
    node = hardware.node
    if devices < 1:
        raise UserError(f"{devices} devices", where="--devices", nearest="1")
    if devices > node and hardware.kind == "TPU":
        raise UserError(
            f"a slice of {hardware.name} has at most {node:,} devices, and a run stays inside one slice",
            where="--devices",
            nearest=str(node),
        )
    if devices > node and devices % node:
        raise UserError(
            f"{devices:,} devices are not a whole number of machines of {node}, and each machine has an equal share",
            where="--devices",
            nearest=str(devices // node * node),
            fix=f"another number of devices, or other machines: --hardware {hardware.name},node=N",
        )
    needed = "link" if 1 < devices <= node else "network" if devices > node else ""
    if needed == "network" and node > 1 and hardware.link is None:
        needed = "link"
    if needed and getattr(hardware, needed) is None:
        raise UserError(
            f"nobody knows the {needed} of {hardware.name}, over which {devices:,} devices would sum gradients",
            where="--hardware",
            fix=f"--hardware {hardware.name.removesuffix(' machine')},{needed}=BYTES_A_SECOND",
        )
    distribution.check_parts(config, devices)


def precision(config: Config, hardware: Hardware) -> str:
    """What products would be computed in there."""
    return hardware.best if config.precision == "auto" else config.precision


def work(config: Config, shape: Shape) -> float:
    """FLOPs of products that training makes for a token: those that count, attention as it is really worked, recomputation.

    Attention makes 7 products of a query and a key (2 forward, 5 backward, FlashAttention's way) where 6 count, and only with
    keys that a block of queries can see. With `recompute` every block goes forward a second time. The gradient of a small
    table is a fourth product with it.
    """
    matrices = 12 * shape.n_embd**2 * shape.n_layer
    keys = sum(_keys(shape, layer) for layer in range(shape.n_layer))
    once = 2.0 * matrices + 4.0 * shape.n_embd * keys
    back = 4.0 * matrices + 10.0 * shape.n_embd * keys
    table = (8.0 if shape.rows <= SMALL_VOCABULARY else 6.0) * shape.rows * shape.n_embd
    return once * (1 if config.recompute == "none" else 2) + back + table


def _keys(shape: Shape, layer: int) -> float:
    """With how many keys a query of this block is multiplied on average, hidden ones included."""
    length, kind = shape.n_ctx, shape.attention[layer]
    if kind == "local":
        spans = math.ceil((length + shape.shift(layer)) / shape.block)
        return spans * shape.block**2 / length
    sight = length if kind == "global" else shape.window
    ends = [(start, min(start + QUERIES, length)) for start in range(0, length, QUERIES)]
    return sum((end - start) * (end - max(0, start - sight + 1)) for start, end in ends) / length


def gradient_bytes(config: Config, shape: Shape) -> int:
    """Of all trained weights: what is summed over the devices in each step."""
    return _plain(config, shape).gradients


def update_bytes(config: Config, shape: Shape) -> int:
    """What the end of a step moves through a device's memory.

    Gradients are read for their norm and again for the update, weights and the optimizer's memory are read and written. Each
    micro-batch reads and writes the sums, and reads what it adds.
    """
    plain = _plain(config, shape)
    sums = 3 * config.accumulate * plain.gradients if config.accumulate > 1 else 0
    return 4 * plain.gradients + 2 * plain.optimizer + sums


def _plain(config: Config, shape: Shape) -> Memory:
    """Memory of one window on one device, in which gradients are there once."""
    single = replace_keys(config, {"train_batch_size": 1, "accumulate": 1})
    return estimates.memory(single, shape, replicas=1, xla=True, precision="float32", kind="GPU")


def exchange_seconds(size: int, hardware: Hardware, *, devices: int) -> tuple[float, float]:
    """Seconds to sum `size` bytes over all devices, inside of nodes and between them.

    A ring sends 2 (N - 1) / N of the bytes over each link (a half to sum, a half to spread the sums). Between nodes each
    device takes its own part of the bytes, so that a node sends all of them once around.
    """
    share = LINK_SHARE[hardware.kind]
    inside = min(devices, hardware.node)
    nodes = math.ceil(devices / hardware.node)
    return (
        _ring(inside) * size / (share * hardware.link) if inside > 1 and hardware.link else 0.0,
        _ring(nodes) * size / (share * hardware.network) if nodes > 1 and hardware.network else 0.0,
    )


def _ring(count: int) -> float:
    return 2.0 * (count - 1) / count


def memory(config: Config, shape: Shape, hardware: Hardware, *, devices: int, runtime: int | None = None) -> Memory:
    """Bytes on each device at the height of a step; with several of them gradients have more copies, on their way."""
    found = estimates.memory(config, shape, **_about(config, hardware, devices), runtime=runtime)
    return replace(found, gradients=found.gradients + _on_their_way(config, shape, hardware, devices))


def remedy(config: Config, shape: Shape, hardware: Hardware, *, devices: int) -> Remedy | None:
    """The first change with which the run would fit on each device; see `estimates.remedy`."""
    free = int(hardware.usable) - _on_their_way(config, shape, hardware, devices)
    found = estimates.remedy(config, shape, free, **_about(config, hardware, devices))
    return (
        None if found is None else replace(found, total=found.total + _on_their_way(config, shape, hardware, devices))
    )


def most_windows(config: Config, shape: Shape, hardware: Hardware, *, devices: int) -> int:
    """The largest micro-batch, in windows a device, that fits there; 0 if none does."""

    def fits(windows: int) -> bool:
        other = replace_keys(config, {"train_batch_size": windows * devices, "accumulate": 1})
        return memory(other, shape, hardware, devices=devices).total <= hardware.usable

    least, most = 0, 1
    while most < 1 << 24 and fits(most):
        least, most = most, most * 2
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least


def _on_their_way(config: Config, shape: Shape, hardware: Hardware, devices: int) -> int:
    return COPIES[hardware.kind] * gradient_bytes(config, shape) if devices > 1 else 0


def _about(config: Config, hardware: Hardware, devices: int) -> dict[str, object]:
    kind = precision(config, hardware)
    xla, own, _ = distribution.choose_compiler(config, hardware.kind, kind, replicas=devices)
    # CPUs of several machines do not share a memory.
    return {"replicas": devices, "processes": devices, "kind": hardware.kind, "precision": kind, "xla": xla, "own": own}
