"""On what a run computes: one device, several GPUs, several machines or a TPU; which precision and compiler, and why."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from tfgpt.config import Config
from tfgpt.errors import Failure, UserError
from tfgpt.files import is_remote
from tfgpt.machine import cores, one_heap, wide_vectors
from tfgpt.training import estimates

TPU_SECONDS = 20.0  # for a TPU, or the service that knows its address, to answer


@dataclass(frozen=True)
class Place:
    """Where a run happens."""

    strategy: tf.distribute.Strategy
    kind: str  # "CPU", "GPU" or "TPU"
    device: str  # for people: "2 CPU cores", "4 GPUs on 2 machines"
    xla: bool
    precision: str
    reason: str  # why this precision and compiler
    process: int = 0  # which of the processes this one is; the first one writes
    processes: int = 1
    own: bool = False  # loss and gradients by `tfgpt.native`, not by TensorFlow

    @property
    def replicas(self) -> int:
        """Copies of the model that work side by side, over all processes."""
        return int(self.strategy.num_replicas_in_sync)

    @property
    def chief(self) -> bool:
        """Whether this is the process that writes files."""
        return self.process == 0

    def rows(self, batch: int) -> slice:
        """The rows of a batch that this process works on; the last process may have fewer, or none."""
        share = -(-batch // self.replicas) * (self.replicas // self.processes)
        return slice(min(self.process * share, batch), min((self.process + 1) * share, batch))


def place(config: Config, *, tpu: str | None = None, workers: Sequence[str] = (), worker: int = 0) -> Place:
    """The strategy for what there is: a TPU by name, several machines (`workers`, or TF_CONFIG), several GPUs, or one device."""
    process, processes = 0, 1
    wide_vectors()
    if tpu:
        strategy, kind, device = _tpu(tpu, config), "TPU", f"TPU {tpu}"
        device += f", {strategy.num_replicas_in_sync} cores"
    elif workers or os.environ.get("TF_CONFIG"):
        strategy, process, processes = _machines(workers, worker)
        kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
        device = f"{strategy.num_replicas_in_sync} replicas ({kind}) in {processes} processes"
    else:
        _one_after_the_other(config)
        gpus = tf.config.list_logical_devices("GPU")
        kind = "GPU" if gpus else "CPU"
        devices = gpus or tf.config.list_logical_devices("CPU")
        if len(devices) > 1:
            strategy = tf.distribute.MirroredStrategy([d.name for d in devices])
        else:
            strategy = tf.distribute.get_strategy()
        device = f"{len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else f"{cores()} CPU cores"
        if not gpus and len(devices) > 1:
            device += f" as {len(devices)} replicas"
    precision, why = choose_precision(config, kind)
    xla, own, because = choose_compiler(config, kind, precision, replicas=strategy.num_replicas_in_sync)
    return Place(strategy, kind, device, xla, precision, f"{why}; {because}", process, processes, own)


def _one_after_the_other(config: Config) -> None:
    """On one CPU, let one operation end, and give its memory back, before the next one asks for some.

    The cores all work inside of each operation. Several at a time gain nothing, and what they hold together is more.
    Large models do without TensorFlow's pool, which may take a fifth more than is used of it; for small ones it is faster.
    """
    if tf.config.list_physical_devices("GPU"):
        return
    cpus = tf.config.list_physical_devices("CPU")
    if sum(len(tf.config.get_logical_device_configuration(cpu) or [cpu]) for cpu in cpus) == 1:
        own = choose_compiler(config, "CPU", choose_precision(config, "CPU")[0], replicas=1)[1]
        large = estimates.is_large(config)
        one_heap(for_all=large and not own)  # our own code has all of its arrays from the start
        os.environ["TF_ONEDNN_USE_SYSTEM_ALLOCATOR"] = str(int(large))
        with suppress(RuntimeError):  # TensorFlow has begun, and is as it is
            tf.config.threading.set_inter_op_parallelism_threads(1)


def choose_precision(config: Config, kind: str) -> tuple[str, str]:
    """What products are computed in, and why."""
    if config.precision != "auto":
        return config.precision, f"{config.precision}, as the configuration says"
    if kind == "TPU":
        return "bfloat16", "bfloat16: what a TPU multiplies in"
    if kind == "GPU":
        major, minor = _compute_capability()
        if major >= 8:
            return "bfloat16", f"bfloat16: GPU of compute capability {major}.{minor} multiplies it at full speed"
        if major >= 7:
            return "float16", f"float16 with a loss scale: GPU of compute capability {major}.{minor} has no bfloat16"
        return "float32", f"float32: GPU of compute capability {major}.{minor} gains nothing from less"
    return "float32", "float32: exact, and on a CPU about as fast as anything"


def choose_compiler(config: Config, kind: str, precision: str, *, replicas: int) -> tuple[bool, bool, str]:
    """Whether XLA compiles what TensorFlow does, whether gradients come from our own compiled code, and why."""
    if config.xla != "auto":
        return config.xla == "on", False, f"XLA {config.xla}, as the configuration says"
    against = _against_own_code(kind, precision, replicas)
    if against is None:
        return True, True, "compiled for this processor, not by XLA: faster"
    if kind == "TPU":
        return False, False, "the TPU compiles everything itself"
    if kind == "CPU" and precision != "float32":
        slow = f"XLA off: its CPU products in {precision} are slower than oneDNN's"
        return False, False, f"{slow} (no code of our own: {against})"
    return (
        True,
        False,
        "XLA on: fewer passes over memory" + (f" (no code of our own: {against})" if kind == "CPU" else ""),
    )


def _against_own_code(kind: str, precision: str, replicas: int) -> str | None:
    """Why `tfgpt.native` cannot train there; None if it can."""
    if kind != "CPU":
        return f"it is for CPUs, this is a {kind}"
    if precision == "float16":
        return f"it has no {precision}"
    if replicas > 1:
        return "it is for one replica"
    if not importlib.util.find_spec("numba"):
        return "numba is not installed"
    return _against_bfloat16() if precision == "bfloat16" else None


def _against_bfloat16() -> str | None:
    """Why our own code should not compute in it on this processor."""
    from tfgpt.native.vectors import pairs_at_once, tiles_of_pairs

    if tiles_of_pairs():
        return "oneDNN's products use this processor's tiles"
    return None if pairs_at_once() else "this processor has no products of bfloat16; float32 is faster here"


def check_batches(config: Config, place: Place) -> None:
    """Batch sizes are global: they must go into equal parts for all replicas and micro-batches."""
    check_parts(config, place.replicas)


def check_parts(config: Config, replicas: int) -> None:
    """`check_batches` for any number of replicas."""
    parts = replicas * config.accumulate
    if config.train_batch_size % parts:
        best = max(parts, config.train_batch_size // parts * parts)
        raise UserError(
            f"a batch of {config.train_batch_size} windows does not go into {replicas} replicas times "
            f"{config.accumulate} micro-batches",
            where="$.train_batch_size",
            nearest=str(best),
            fix=f"--set train_batch_size={best}",
        )


def agree(place: Place, number: float) -> float:
    """The greatest of what all processes say; each must ask at the same point of its run."""
    if place.processes == 1:
        return number
    return float(_greatest(place)(tf.constant(number, tf.float64)))


@functools.cache
def _greatest(place: Place) -> Callable[[tf.Tensor], tf.Tensor]:
    """The compiled question of `agree`, which is asked several times a second."""

    @tf.function
    def greatest(x):
        def mine(x):
            context = tf.distribute.get_replica_context()
            # Only sums are offered on every device: each replica fills its own place, and the greatest is taken afterwards.
            row = tf.one_hot(context.replica_id_in_sync_group, place.replicas, dtype=tf.float64) * x
            return tf.reduce_max(context.all_reduce(tf.distribute.ReduceOp.SUM, row))

        return place.strategy.experimental_local_results(place.strategy.run(mine, args=(x,)))[0]

    return greatest


def _tpu(name: str, config: Config) -> Any:
    for key in ("model_path", "data_path"):
        path = getattr(config, key)
        if name != "local" and path and not is_remote(path):
            raise UserError(
                f"a TPU named over the network reads and writes buckets only, but {key} is {path}",
                where=f"$.{key}",
                fix=f"--set {key}=gs://YOUR_BUCKET/{path.strip('/')}   (or run on the TPU's own machine with --tpu local)",
            )
    patience = socket.getdefaulttimeout()
    try:
        # Without this, an address at which nobody answers is waited for without end.
        socket.setdefaulttimeout(TPU_SECONDS)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        _, scheme, address = str(resolver.master()).rpartition("grpc://")
        if scheme:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port))).close()
        tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        return tf.distribute.TPUStrategy(resolver)
    except Exception as error:
        # The rest of such a message is about kernels and nodes.
        first = (str(error).strip().splitlines() or [""])[0].partition(". ")[0]
        raise Failure(
            f'no TPU answers to the name "{name}": {first or type(error).__name__}',
            where="--tpu",
            fix="check the name, and that this machine has a TensorFlow for TPUs: pip install tensorflow-tpu "
            "(2.20 is the newest); without --tpu the run uses what this machine has",
        ) from None
    finally:
        socket.setdefaulttimeout(patience)


def _machines(workers: Sequence[str], worker: int) -> tuple[Any, int, int]:
    """MultiWorkerMirroredStrategy; `workers` writes the TF_CONFIG that the strategy reads."""
    if workers:
        for address in workers:
            host, _, port = address.rpartition(":")
            if not host or not port.isdecimal():
                raise UserError(f'"{address}" is not HOST:PORT', where="--workers", nearest=f'"{address}:12345"')
        if not 0 <= worker < len(workers):
            raise UserError(
                f"there is no worker {worker} among {len(workers)}",
                where="--worker",
                nearest=f"0 to {len(workers) - 1}",
            )
        task = {"cluster": {"worker": list(workers)}, "task": {"type": "worker", "index": worker}}
        os.environ["TF_CONFIG"] = json.dumps(task)
    options = tf.distribute.experimental.CommunicationOptions(
        implementation=tf.distribute.experimental.CommunicationImplementation.AUTO
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy(communication_options=options)
    resolver = strategy.cluster_resolver
    spec = resolver.cluster_spec().as_dict()
    # The order of TensorFlow itself: a chief, if there is one, stands before all workers.
    order = [(kind, i) for kind in ("chief", "worker") for i in range(len(spec.get(kind, [])))]
    own = (resolver.task_type, resolver.task_id)
    return strategy, order.index(own) if own in order else 0, max(len(order), 1)


def _compute_capability() -> tuple[int, int]:
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return details.get("compute_capability", (0, 0))
