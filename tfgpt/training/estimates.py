"""What a run will take, computed before it takes it: memory by part, room on the disk, and what would make it fit.

The sizes of weights, gradients and optimizer follow from the shape. What the backward pass keeps follows from the code of
`tfgpt.model`, as XLA compiles it; the few constants below were read off XLA's own accounts of its buffers, and the tests hold
the whole against the measured peak of real training processes (`probe.measure`, `tfgpt check X.json --measure`).
"""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfgpt import files, machine, optimizers
from tfgpt.config import Config
from tfgpt.data.outlook import size_words
from tfgpt.model.attention import GROUP, QUERIES
from tfgpt.model.loss import MOST_PIECES, chunk_size
from tfgpt.model.shape import Shape
from tfgpt.training import probe

if TYPE_CHECKING:
    from tfgpt.training.distribution import Place

MB = 1 << 20
RUNTIME = 620 * MB  # TensorFlow and Keras imported, where the process cannot be asked
COMPILED = 120 * MB  # what TensorFlow and XLA add with their first compiled step, whatever its size
OWN_CODE = 110 * MB  # what numba, our own compiled code and TensorFlow's graph around it add
COMPILED_BLOCK = 15 * MB  # and for each block; alike ones are compiled once, but each is called, with its own tensors
COMPILED_SPAN = 15 * MB  # and for each span of queries (attention.QUERIES), which is compiled by itself
KEPT = 10  # arrays of [tokens, n_embd] that a block leaves to its backward pass (tfgpt.model.block)
WITHIN = 20  # such arrays that exist inside the backward pass of a block, beside what was kept
SCORES = 3  # of one block of queries: scores, their softmax, and its gradient
LOGITS = 3  # of a part of the tokens live at one time: logits, their softmax, and its gradient
POOL_HOLES = 0.2  # what TensorFlow's pool takes beyond what is used of it at one time
HEAP_HOLES = 0.05  # and the heap of a large model on one CPU, which is trained without the pool
LARGE = 32 << 20  # weights in the blocks from which on a model is large
GPU_RUNTIME = 600 * MB  # the CUDA context, the libraries' kernels and work space


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the height of a training step, by what holds them.

    weights      float32 masters (and their copies in the type that products are computed in)
    gradients    of all trained weights, and their sums over micro-batches
    optimizer    what it remembers about the weights
    activations  what the forward pass leaves to the backward pass, the work of one block, the loss over the vocabulary
    data         batches that wait
    runtime      TensorFlow itself, and the compiled step
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    data: int
    runtime: int

    @property
    def total(self) -> int:
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Bytes by name, in the order above."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def memory(
    config: Config,
    shape: Shape,
    *,
    replicas: int,
    xla: bool,
    precision: str,
    kind: str = "CPU",
    runtime: int | None = None,
    processes: int = 1,
    own: bool = False,
) -> Memory:
    """The height of memory on each of `replicas` devices; on a CPU, whose replicas share one memory, of all in one process.

    It counts what pool or heap hold, as they give nothing back to the system. Updates are made in place.
    `runtime` is what the process holds before the model exists, in bytes, where it was measured. `own`: gradients come from
    `tfgpt.native`.

    >>> from tfgpt import config
    >>> small = config.load("quickstart", check_files=False)
    >>> memory(small, Shape.of(small, 4096), replicas=1, xla=True, precision="float32").weights
    5308416
    """
    # Imported here, as they bring the whole of TensorFlow, and numba, in.
    from tfgpt.training.step import trained_names

    if own:
        from tfgpt.native.gradients import bytes_of
        from tfgpt.training.own_updates import bytes_of as bytes_of_updates

    names = trained_names(config, list(shape.weights))
    optimizer = optimizers.build(config)
    numbers = sum(map(math.prod, shape.weights.values()))
    trained = sum(math.prod(shape.weights[name]) for name in names)
    slots = sum(math.prod(s) for name in names for s in optimizer.slots(name, shape.weights[name]).values())
    width = 4 if precision == "float32" or own else 2
    windows = max(1, config.train_batch_size // (replicas * config.accumulate))
    sums = 4 * trained if config.accumulate > 1 else 0
    holes = HEAP_HOLES if kind == "CPU" and replicas == 1 and is_large(config) else POOL_HOLES
    if own:
        sums, activations = 0, bytes_of(config, shape, windows, names)
        activations += bytes_of_updates(config, {name: shape.weights[name] for name in names})
    else:
        activations = _activations(config, shape, names, windows=windows, width=width, holes=holes)
    stretch = 2 * 2 * 4 * config.train_batch_size * config.n_ctx * min(config.iterations, 8)
    copies = replicas // processes if kind == "CPU" else 1
    if own:
        base = (runtime or RUNTIME) + OWN_CODE
    elif kind == "CPU":
        spans = math.ceil(shape.n_ctx / QUERIES) if "global" in shape.attention else 1
        base = (runtime or RUNTIME) + COMPILED + COMPILED_BLOCK * shape.n_layer + COMPILED_SPAN * (spans - 1)
    else:
        base = GPU_RUNTIME
    return Memory(
        weights=copies * (4 * numbers + (numbers * width if width < 4 else 0)),
        gradients=copies * (4 * trained + sums),
        optimizer=copies * 4 * slots,
        activations=copies * activations,
        data=stretch,
        runtime=base,
    )


def is_large(config: Config) -> bool:
    """Whether it is trained without TensorFlow's pool, on one CPU."""
    return 12 * config.n_layer * config.n_embd**2 >= LARGE


def _activations(
    config: Config, shape: Shape, names: Collection[str], *, windows: int, width: int, holes: float
) -> int:
    """Bytes of one micro-batch of `windows` windows beyond all gradients; `width` is that of a number, in bytes."""
    tokens = windows * shape.n_ctx
    row = tokens * shape.n_embd * width
    if config.recompute == "none":
        kept = KEPT * row * shape.n_layer
    else:
        # Only what goes into each group of blocks is kept, and one group at a time has all of its own.
        size = config.recompute if isinstance(config.recompute, int) else 1
        kept = row * math.ceil(shape.n_layer / size) + KEPT * row * min(size, shape.n_layer)
    gradients = {name: 4 * math.prod(shape.weights[name]) for name in names}
    table = gradients.get("wte.weight", 0)
    within = WITHIN * row + SCORES * max(_scores(shape, kind, windows) for kind in set(shape.attention))
    # The loss comes before any block's gradient; these come one by one, as what was kept goes.
    begun = kept + table + max(logits_bytes(shape, tokens), within + sum(gradients.values()) // shape.n_layer)
    ended = sum(gradients.values()) + within
    highest = max(begun, ended)
    return round(highest * (1 + holes)) - sum(gradients.values())


def _scores(shape: Shape, kind: str, windows: int) -> int:
    """Attention weights that exist at one time, float32: of a block of queries, or of a group of spans."""
    if kind != "local":
        keys = shape.n_ctx if kind == "global" else min(shape.window + QUERIES, shape.n_ctx)
        return 4 * windows * shape.n_head * min(shape.n_ctx, QUERIES) * keys
    spans = math.ceil(shape.n_ctx / shape.block)
    return 4 * windows * shape.n_head * min(spans, max(1, GROUP // shape.block**2)) * shape.block**2


def logits_bytes(shape: Shape, tokens: int) -> int:
    """The loss beside the table's gradient: logits of some tokens at a time, and what they add to that gradient."""
    chunk = chunk_size(tokens, shape.rows)
    return 4 * shape.rows * max(LOGITS * chunk, chunk + shape.n_embd // MOST_PIECES)


@dataclass(frozen=True)
class Remedy:
    """A change of the configuration with which a run would fit."""

    settings: tuple[str, ...]
    total: int  # bytes on a device then
    config: Config

    @property
    def words(self) -> str:
        return " ".join(f"--set {setting}" for setting in self.settings)


def remedy(
    config: Config,
    shape: Shape,
    free: int,
    *,
    replicas: int,
    xla: bool,
    precision: str,
    kind: str,
    runtime: int | None = None,
    processes: int = 1,
    own: bool = False,
) -> Remedy | None:
    """The first change that fits into `free` bytes: what changes no result comes first, then what costs a little time, then
    what makes another run of it. None if nothing of that kind helps: the model itself is too large."""
    share = config.train_batch_size // replicas
    parts = [n for n in range(config.accumulate, share + 1) if share % n == 0 and n > config.accumulate]
    steps: list[dict[str, object]] = [{"accumulate": n} for n in parts]
    if config.recompute == "none":
        steps += [{"recompute": "block"}, *({"recompute": "block", "accumulate": n} for n in parts)]
        last: dict[str, object] = {"recompute": "block"}
    else:
        last = {}
    sizes = [replicas * n for n in (2**power for power in range(30, -1, -1)) if n < share]
    steps += [{**last, "accumulate": 1, "train_batch_size": size} for size in sizes]
    if config.opt_name == "adam":
        steps += [{**step, "opt_name": "adafactor"} for step in steps[-1:]]
    for changed in steps:
        other = replace_keys(config, changed)
        found = memory(
            other,
            shape,
            replicas=replicas,
            xla=xla,
            precision=precision,
            kind=kind,
            runtime=runtime,
            processes=processes,
            own=own,
        ).total
        if found <= free:
            return Remedy(tuple(f"{key}={value}" for key, value in changed.items()), found, other)
    return None


def replace_keys(config: Config, changed: dict[str, object]) -> Config:
    """`config` with other values; they are ours, so nothing checks them again."""
    return config.model_copy(update=changed)


def free_memory(kind: str) -> int | None:
    """Bytes that a run could still take on one device; None where nobody says."""
    if kind == "GPU":
        return _gpu_memory()
    if kind != "CPU":
        return None
    bounds = [value for value in (_available(), *_container()) if value is not None]
    # What this process holds already is part of what a run would.
    own = probe.resident()
    return min(bounds) + (own[0] if own else 0) if bounds else None


def _available() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines)
        return int(found["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        pass
    return machine.memory()


def _container() -> list[int]:
    """What is left of a container's own limit, which /proc/meminfo knows nothing of."""
    left = []
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            most = int(Path(limit).read_text("ascii"))
            if most < 1 << 50:  # more stands for "no limit"
                left.append(most - int(Path(used).read_text("ascii")))
        except (OSError, ValueError):
            continue  # "max", or no such file
    return left


def _gpu_memory() -> int | None:
    """Of the smallest GPU, less what TensorFlow leaves to the driver."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        return round(0.94 * MB * min(int(line) for line in done.stdout.split()))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


@dataclass(frozen=True)
class Disk:
    """Bytes on the disk: `checkpoint` each, `count` of them at most, `free` where the run lies (None in a bucket)."""

    checkpoint: int
    count: int
    free: int | None

    @property
    def total(self) -> int:
        return self.checkpoint * self.count


def disk(config: Config, shape: Shape, *, tokenizer_bytes: int = 0) -> Disk:
    """What the checkpoints of the whole run will take, one of them on its way."""
    from tfgpt.training.step import trained_names

    names = trained_names(config, list(shape.weights))
    optimizer = optimizers.build(config)
    slots = sum(math.prod(s) for name in names for s in optimizer.slots(name, shape.weights[name]).values())
    each = 4 * (sum(map(math.prod, shape.weights.values())) + slots) + tokenizer_bytes + (64 << 10)
    saves = (
        math.ceil(config.max_steps / config.save_steps) if config.save_steps and not config.save_minutes else 1 << 30
    )
    milestones = config.max_steps // config.milestone_steps if config.milestone_steps else 0
    best = 1 if config.eval_steps != 0 else 0
    return Disk(each, min(config.keep_last, saves) + best + milestones + 1, free_disk(config.model_path))


def free_disk(folder: str) -> int | None:
    """Bytes that are free where `folder` is, or will be; a bucket has no end."""
    if files.is_remote(folder):
        return None
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def summary(
    config: Config,
    shape: Shape,
    *,
    place: Place,
    train_tokens: int | None,
    exact: bool = True,
    step: int = 0,
    runtime: int | None = None,
) -> list[str]:
    """What stands over a training run: model, data, batches, memory, device, and what there is to do.

    `train_tokens` are those of one epoch (None or 0: nobody knows); `step` is where the run begins.
    """
    found = memory(
        config,
        shape,
        replicas=place.replicas,
        processes=place.processes,
        xla=place.xla,
        precision=place.precision,
        kind=place.kind,
        runtime=runtime,
        own=place.own,
    )
    free = free_memory(place.kind)
    room = "" if free is None else f" of {size_words(free)} free" + ("" if found.total <= free else "  (too much)")
    return [
        f"model    {model_words(shape)}",
        f"data     {epoch_words(config, train_tokens, exact=exact)}",
        f"batches  {algebra(config, place.replicas)}",
        f"memory   about {size_words(found.total)}{room}",
        f"device   {place.device}; {place.reason}",
        f"steps    {step:,} to {config.max_steps:,}, saved in {config.model_path}",
    ]


def model_words(shape: Shape) -> str:
    """The size of a model in one line."""
    return (
        f"{shape.parameters:,} parameters: {shape.n_layer} blocks, {shape.n_embd} wide, {shape.n_head} heads, "
        f"{shape.n_ctx} tokens, vocabulary {shape.n_vocab:,}"
    )


def algebra(config: Config, replicas: int) -> str:
    """How a batch comes about.

    >>> from tfgpt import config
    >>> algebra(config.load("quickstart", check_files=False), 2)
    '32 windows = 2 replicas × 1 micro-batch × 16 windows; 4,096 tokens a step'
    """
    rows = config.train_batch_size // (replicas * config.accumulate)
    tokens = config.train_batch_size * config.n_ctx
    return (
        f"{config.train_batch_size} windows = {_plural(replicas, 'replica')} × "
        f"{_plural(config.accumulate, 'micro-batch', 'es')} × {_plural(rows, 'window')}; {tokens:,} tokens a step"
    )


def epochs(config: Config, train_tokens: int) -> float:
    """How often the run sees all of its data."""
    return config.max_steps * config.train_batch_size * config.n_ctx / train_tokens


def epoch_words(config: Config, train_tokens: int | None, *, exact: bool = True) -> str:
    """Tokens and epochs of a run."""
    if not train_tokens:
        return "nobody can count its tokens"
    about = "" if exact else "about "
    return f"{about}{train_tokens:,} tokens to train on, seen {epochs(config, train_tokens):.3g} times in all"


def _plural(count: int, word: str, ending: str = "s") -> str:
    return f"{count:,} {word}{ending * (count != 1)}"
