"""The imports of the package keep to the floors of docs/architecture.md."""

from __future__ import annotations

import ast

import pytest

from tests.conftest import ROOT

FLOORS = {
    "cli": 5, "benchmarks": 5, "estimator": 4, "generator": 4, "certificate": 4, "serving": 4, "training": 3, "generation": 3, "native": 3, "export": 3, "report": 3,
    "data": 2, "extract": 2, "weights": 2, "model": 2, "optimizers": 2, "tokenizers": 1, "config": 1,
    "files": 1, "buckets": 1, "tensors": 1, "errors": 0, "progress": 1, "signals": 1, "locks": 1, "machine": 1, "quiet": 1, "quick": 1, "chat": 1,
}  # fmt: skip
MODULES = sorted((ROOT / "tfgpt").rglob("*.py"))
# What takes seconds to import is allowed where it is needed, and nowhere else.
HEAVY = {"tensorflow", "keras", "torch", "jax"}
ALLOWED = {
    "model": {"keras"}, "optimizers": {"keras"}, "data": {"tensorflow"}, "estimator": {"tensorflow"}, "certificate": HEAVY,
    "training": {"tensorflow", "keras"}, "export": {"tensorflow", "keras"}, "weights": {"tensorflow", "torch"}, "generation": {"tensorflow", "keras"}, "benchmarks": HEAVY,
}  # fmt: skip


def imports(path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader sees the floor"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def room(dotted: str) -> str | None:
    parts = dotted.split(".")
    return parts[1] if parts[0] == "tfgpt" and len(parts) > 1 and parts[1] in FLOORS else None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_a_module_imports_only_from_floors_below(path):
    own = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if own is None:
        return
    for name in imports(path):
        other = room(name)
        if other is not None and other != own:
            allowed = FLOORS[other] < FLOORS[own] or (FLOORS[own] <= 2 and FLOORS[other] == FLOORS[own] == 1)
            allowed = allowed or (own, other) in {
                ("cli", "benchmarks"),
                ("estimator", "generator"),
                ("serving", "generator"),
                ("generation", "native"),
                ("training", "native"),
            }
            assert allowed, f"{path.name} ({own}) imports {name} ({other})"
        assert name.split(".")[0] not in HEAVY - ALLOWED.get(own, set()), f"{path.name} imports {name}"


def test_every_room_has_a_floor():
    names = {p.name.removesuffix(".py") for p in (ROOT / "tfgpt").iterdir() if not p.name.startswith("_")}
    assert names - {"py.typed", "model_configs"} <= set(FLOORS) | {"tfgpt.egg-info"}


def test_rooms_stay_small():
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert max(lengths.values()) <= 500 and sorted(lengths.values())[len(lengths) // 2] <= 200


def test_datasets_is_no_package():
    """With an __init__.py the folder would hide the PyPI package of that name."""
    assert not (ROOT / "datasets" / "__init__.py").exists()
