"""All that is asked of two replicas, in one process with two logical devices; run as `two_replicas.py OUTPUT.npz`."""

from __future__ import annotations

import sys

import numpy as np
import tensorflow as tf

from tests.training import small

OPTIMIZERS = {
    "adam": {},
    "accumulate": {"accumulate": 2},
    "adafactor": {"opt_name": "adafactor", "beta1": 0.9},
    "muon": {"opt_name": "muon"},
    "sgd": {"opt_name": "sgd", "lr": 0.1},
}


def main(output: str) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found: dict[str, np.ndarray] = {}
    for name, keys in OPTIMIZERS.items():
        result = small.updates(small.config(**keys), small.place(strategy))
        found |= {f"{name}: {key}": value for key, value in result.items()}
    result = small.updates(small.config(accumulate=2), small.place(strategy), data=small.chats())
    found |= {f"one side: {key}": value for key, value in result.items()}
    result = small.updates(small.config(), small.place(strategy, xla=True))
    found |= {f"xla: {key}": value for key, value in result.items()}
    found |= masks(strategy) | copies_and_evaluation(strategy)
    found |= poisoned(strategy) | overflow(strategy)
    np.savez(output, **found)


def both(step, variable) -> list[np.ndarray]:
    return [x.numpy() for x in step.place.strategy.experimental_local_results(variable._value)]


def masks(strategy) -> dict[str, np.ndarray]:
    """Losses of each replica alone, fed with the same rows, with dropout on."""
    settings = small.config(**small.DROPOUT)
    step = small.step_of(settings, small.place(strategy))
    ids, labels = small.batches(1)
    rows, wanted = ids[0][:4], labels[0][:4]

    @tf.function
    def run():
        def replica():
            context = tf.distribute.get_replica_context()
            scale, number = tf.constant(1.0), tf.constant(0)
            parts = [tf.constant(0), tf.cast(context.replica_id_in_sync_group, tf.int32)]
            return [
                step._gradients(
                    step.gpt.values(), tf.constant(rows), tf.constant(wanted), None, scale, number, part, number
                )[0]
                for part in parts
            ]

        return strategy.run(replica)

    same, own = ([float(x) for x in strategy.experimental_local_results(part)] for part in run())
    return {"masks: same": np.array(same), "masks: own": np.array(own)}


def copies_and_evaluation(strategy) -> dict[str, np.ndarray]:
    """After some updates both replicas hold the same bits; and an evaluation batch that cannot be halved."""
    step = small.step_of(small.config(), small.place(strategy))
    step.train(*small.batches(), None, first=0)
    pairs = [both(step, variable) for variable in [*step.gpt.table.values(), *step.variables().values()]]
    equal = all(len(pair) == 2 and pair[0].tobytes() == pair[1].tobytes() for pair in pairs)
    return {"copies": np.array(equal), "odd evaluation": np.array(step.evaluate(small.Odd(), 0))}


def poisoned(strategy) -> dict[str, np.ndarray]:
    """A NaN in the loss of the second replica alone, in the second of three updates."""
    step = small.step_of(small.config(), small.place(strategy))
    small.poison(step)
    ids, labels = small.batches(3)
    ids[1, 7, 3] = small.POISON
    before = step.train(ids[:1], labels[:1], None, first=0)
    state = [both(step, v) for v in [*step.gpt.table.values(), *step.variables().values()]]
    bad = step.train(ids[1:2], labels[1:2], None, first=1)
    after = [both(step, v) for v in [*step.gpt.table.values(), *step.variables().values()]]
    good = step.train(ids[2:], labels[2:], None, first=2)
    return {
        "poison: losses": np.array([x.losses[0] for x in (before, bad, good)]),
        "poison: applied": np.array([x.applied[0] for x in (before, bad, good)]),
        "poison: unchanged": np.array(
            all(
                a.tobytes() == b.tobytes() for x, y in zip(state, after, strict=True) for a, b in zip(x, y, strict=True)
            )
        ),
        "poison: finite": np.array(all(np.isfinite(x).all() for v in step.gpt.table.values() for x in both(step, v))),
    }


def overflow(strategy) -> dict[str, np.ndarray]:
    """float16: a gradient that overflows on the second replica alone."""
    step = small.step_of(small.config(precision="float16"), small.place(strategy, precision="float16"))
    small.poison(step, factor=float("inf"))
    ids, labels = small.batches(3)
    ids[1, 7, 3] = small.POISON
    weight = step.gpt.table["h.0.mlp.c_fc.weight"]
    scales, weights, applied = [both(step, step.scale.scale)], [both(step, weight)], []
    for i in range(3):
        applied.append(step.train(ids[i : i + 1], labels[i : i + 1], None, first=i).applied[0])
        scales.append(both(step, step.scale.scale))
        weights.append(both(step, weight))
    return {"scale: applied": np.array(applied), "scale: scales": np.array(scales), "scale: weights": np.array(weights)}


if __name__ == "__main__":
    main(sys.argv[1])
