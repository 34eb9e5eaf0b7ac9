"""Who is loaded when, with processes that only pretend: falls and rests, newer checkpoints that are no good, and ends."""

from __future__ import annotations

import asyncio

import pytest

from tfgpt.errors import UserError
from tfgpt.serving import faults, fingerprints, registry
from tfgpt.serving.faults import Ended, Falls, Resting
from tfgpt.serving.settings import ModelSettings, ServerSettings


class Pretended:
    """Behaves like a `Worker` that loads what `PLAN` says: a fingerprint, or an error."""

    plan: list = []
    made: list = []

    def __init__(self, on_end):
        self.on_end, self.leases, self.memory, self.alive, self.lived, self.why = on_end, 0, 1, True, 0.0, ""
        self.about, self.fingerprint, self.closed, self.running = {}, "", False, True
        self.made.append(self)

    async def load(self, folder, **how):
        await asyncio.sleep(0)
        found = self.plan.pop(0)
        if isinstance(found, Exception):
            raise found
        self.fingerprint, self.about = found, {"about": "pretended"}

    def fall(self):
        self.alive = self.running = False
        self.on_end(self)

    async def close(self):
        self.closed = True


def run(tmp_path, monkeypatch, test, *plan, **settings):
    """Run `test(registry, said)` with loads that go as planned."""
    monkeypatch.setattr(Pretended, "plan", list(plan))
    monkeypatch.setattr(Pretended, "made", [])
    monkeypatch.setattr(registry, "Worker", Pretended)
    (tmp_path / "weights").write_bytes(b"x")
    said = []

    async def whole():
        models = [ModelSettings(key="a", path=str(tmp_path))]
        found = registry.Registry(ServerSettings(models=models, **settings), said.append)
        await found.start()
        try:
            await asyncio.wait_for(test(found, said), 20)
        finally:
            await found.close()

    asyncio.run(whole())
    assert all(worker.closed for worker in Pretended.made if worker.alive)


async def answer(found):
    async with found.lease("a") as (_, worker):
        return worker.fingerprint


async def until(what):
    while not what():
        await asyncio.sleep(0.005)


def test_a_model_that_falls_is_started_at_once_and_then_less_and_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "FIRST", 0.2)

    async def test(found, said):
        model = found.models["a"]
        assert await answer(found) == "1" and not found.down
        model.worker.fall()
        assert found.down == ["a"]
        await until(lambda: model.worker)  # without being asked
        assert await answer(found) == "2" and not found.down
        model.worker.fall()
        with pytest.raises(Resting, match="2 times in a row") as caught:
            await answer(found)
        assert caught.value.after == 1 and "tried again in" in said[-1]
        await until(lambda: model.worker)  # the third start fails itself, and the fourth is good
        assert await answer(found) == "4" and model.falls.row == 3 and model.falls.total == 3
        model.worker.lived = faults.STEADY + 1  # what falls after a long time falls for the first time
        model.worker.fall()
        assert await answer(found) == "5" and model.falls.row == 1

    run(tmp_path, monkeypatch, test, "1", "2", Ended("killed"), "4", "5")


def test_one_that_falls_when_it_has_to_go_does_not_come_back_by_itself(tmp_path, monkeypatch):
    async def test(found, said):
        model = found.models["a"]
        async with found.lease("a") as (_, worker):
            leaving = asyncio.create_task(found._retire(model))
            await until(lambda: model.leaving)
            worker.fall()
        await leaving
        await asyncio.sleep(0.05)
        assert model.worker is None and not found.down and len(said) == 2
        assert await answer(found) == "2"

    run(tmp_path, monkeypatch, test, "1", "2")


def test_a_spare_process_that_died_unheard_is_no_fall_of_the_model(tmp_path, monkeypatch):
    async def test(found, said):
        found._spare.running = False
        assert await answer(found) == "1" and found.models["a"].worker is not Pretended.made[0]
        assert found.models["a"].falls.total == 0
        Pretended.made[0].fall()

    run(tmp_path, monkeypatch, test, "1")


def test_rests_double_up_to_a_limit():
    falls = Falls()
    assert [falls.add(1.0) for _ in range(9)] == [0, 5, 10, 20, 40, 80, 160, 300, 300]
    assert 299 < falls.left <= 300 and falls.resting("a").after in (299, 300)


def test_newer_checkpoints_are_taken_and_those_no_good_are_left_alone(tmp_path, monkeypatch):
    now = ["1"]
    monkeypatch.setattr(fingerprints, "newest", lambda folder: now[0])

    async def test(found, said):
        assert await answer(found) == "1"
        now[0] = "2"
        await until(lambda: "left alone: no shape" in said[-1])
        now[0] = "3"  # damaged: what is loaded in its place is the older one again
        await until(lambda: "is damaged, and left alone" in said[-1])
        await asyncio.sleep(0.1)  # many looks, and no more loads: the plan would be at its end
        assert await answer(found) == "1" and found.swaps == 1
        async with found.lease("a") as (_, old):
            now[0] = "4"
            await until(lambda: found.models["a"].worker is not old)
            assert await answer(found) == "4" and not old.closed  # it is still answering
        await until(lambda: old.closed)
        found.draining, now[0] = True, "5"
        await asyncio.sleep(0.1)
        assert await answer(found) == "4" and not Pretended.plan

    run(tmp_path, monkeypatch, test, "1", UserError("no shape"), "1", "4", reload=0.01)


def test_who_waits_for_a_model_hears_of_the_end(tmp_path, monkeypatch):
    async def test(found, said):
        found._queue = type(
            "", (), {"__contains__": lambda *_: True, "__bool__": lambda _: False}
        )()  # nothing is loaded
        waiting = asyncio.create_task(answer(found))
        await asyncio.sleep(0.01)
        found.give_up(UserError("about to end"))
        with pytest.raises(UserError, match="about to end"):
            await waiting

    run(tmp_path, monkeypatch, test)
