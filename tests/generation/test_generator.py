"""From a trained run to text, with the real engine: what every road to it has in common, and what stands in its way."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tfgpt
from tests.conftest import ROOT
from tests.generation.fake import FakeEngine
from tests.generation.test_fuzz import options_of, prompt_of
from tests.training import small
from tests.training.conftest import data  # noqa: F401
from tfgpt.cli import run_verb
from tfgpt.errors import UserError
from tfgpt.generation.decoding import Decoding
from tfgpt.generation.language import Language
from tfgpt.generation.options import Options
from tfgpt.tokenizers import from_name, train_char

KEYS = {"max_steps": 40, "sample_every": 20, "n_ctx": 32, "lr": 0.01, "top_k": 12, "predict_batch_size": 2}


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):  # noqa: F811
    """A run of a byte model that has learned a little, and the estimator that trained it."""
    from tfgpt.estimator import Estimator

    run = tmp_path_factory.mktemp("trained") / "run"
    estimator = Estimator(small.config(data_path=str(data), model_path=str(run), **KEYS), say=lambda text: None)
    estimator.train_and_evaluate()
    return estimator, run


@pytest.fixture(scope="module")
def generator(trained):
    return tfgpt.Generator.load(str(trained[1]), dtype="float32", slots=3)


@pytest.fixture(scope="module")
def alone(trained, tmp_path_factory):
    """The same model with one slot, from a copy of the bare checkpoint."""
    folder = tmp_path_factory.mktemp("copied") / "mine"
    (newest,) = [path for path in (trained[1] / "checkpoints").iterdir() if path.name.endswith("40")]
    shutil.copytree(newest, folder)
    return tfgpt.Generator.load(str(folder), dtype="float32", slots=1)


def uncached(trained, prompt, *, sample=0, **keys):
    """The text by way of the live model, which keeps nothing between two tokens."""
    from tfgpt.generation.uncached import Uncached

    decoding = Decoding(Uncached(trained[0].gpt), Language(from_name("byte"), 257))
    number = decoding.add(prompt, Options(**{"seed": 0} | keys), sample=sample)
    while decoding.busy:
        decoding.step()
    return decoding.result(number)


def test_samples_while_training_are_what_the_model_writes_then(trained):
    told = small.events(trained[1], "sample")
    assert [line["step"] for line in told] == [20, 40]
    window = trained[0].inputs.eval.batch(0).ids[0].tolist()
    start = window.index(256) + 1 if 256 in window[:-12] else 0
    prompt = window[start : start + 12]
    result = uncached(trained, prompt, top_k=12, seed=trained[0].config.seed, length=60)
    assert told[-1]["text"] == result.text and told[-1]["prompt"] == bytes(t for t in prompt if t < 256).decode()


@pytest.mark.parametrize(
    "keys", [{"temperature": 0}, {"top_k": 5, "seed": 3}, {"repetition_penalty": 1.3, "top_p": 0.9, "seed": 1}]
)
def test_cached_text_is_the_uncached_text(trained, generator, keys):
    """Beyond the context too, where it is read anew, and for prompts that do not fit."""
    prompts = ["the model", "", "we wait for it. " * 5]
    for result in generator.generate(prompts, length=75, ignore_eot=True, num_samples=2, **keys):
        expected = uncached(trained, result.prompt, sample=result.sample, length=75, ignore_eot=True, **keys)
        assert (result.tokens, result.text) == (expected.tokens, expected.text)


def test_same_seed_same_text_whatever_the_number_of_slots_and_neighbours(alone, generator):
    keys = {"seed": 11, "length": 45, "logprobs": True, "ignore_eot": True}
    many = generator.generate(["small words", "to read and", "a", "the"], num_samples=3, **keys)
    for result in many:
        again = alone.generate(result.prompt, **keys | {"num_samples": result.sample + 1})[-1]
        assert (result.text, result.tokens) == (again.text, again.tokens)
        np.testing.assert_allclose(result.logprobs, again.logprobs, atol=1e-4)


def test_log_probabilities_of_generated_text_are_its_score(generator):
    (result,) = generator.generate("", seed=4, length=20, temperature=0.6, logprobs=True, banned=list(range(127, 257)))
    score = generator.score(result.text)
    assert score.tokens == result.tokens
    np.testing.assert_allclose(score.logprobs, result.logprobs, atol=1e-3)


def test_scores_are_those_of_the_model(trained, generator):
    text = "the model learns to read and write small words in long lines. naïve"
    ids = [256, *text.encode()]
    expected = []
    for place in range(1, len(ids)):
        start = 16 * max(0, math.ceil((place - 31) / 16))
        logits = np.asarray(trained[0].gpt(np.array([ids[start:place]], "int32")))[0, -1].astype(np.float64)
        expected.append(logits[ids[place]] - logits.max() - np.log(np.exp(logits - logits.max()).sum()))
    score = generator.score(text)
    np.testing.assert_allclose(score.logprobs, expected, atol=1e-3)
    # Scored in windows, the text is about as likely as the model's evaluation says of text like it.
    loss = small.events(trained[1], "eval")[-1]["loss"]
    assert abs(-score.total / len(score.tokens) - loss) < 1.0


def test_the_estimator_writes_with_its_newest_checkpoint(trained, generator, monkeypatch):
    asked = []

    def load(folder, **keys):
        asked.append((folder, keys["dtype"], keys["slots"]))
        return generator

    monkeypatch.setattr(tfgpt.Generator, "load", load)
    found = trained[0].predict(["we", "the"], seed=2, length=15, dtype="float32")
    expected = generator.generate(["we", "the"], seed=2, length=15, top_k=12, num_samples=2)
    assert [result.text for result in found] == [result.text for result in expected] and len(found) == 4
    assert asked == [(str(trained[1]), "float32", 4)]


def test_a_bare_checkpoint_is_all_that_is_needed(alone, capfd, monkeypatch):
    assert "step 40" in alone.about and "float32" in alone.about
    monkeypatch.setattr(tfgpt.Generator, "load", lambda folder, **keys: alone)
    words = ["mine", "--text", "the", "--seed", "6", "--length", "20"]
    assert run_verb("tfgpt.cli.predict", words, prog="tfgpt predict") == 0
    assert capfd.readouterr().out == "the" + alone.generate("the", seed=6, length=20)[0].text + "\n"
    assert run_verb("tfgpt.cli.score", ["mine", "--text", "the", "--json"], prog="tfgpt score") == 0
    assert json.loads(capfd.readouterr().out)["perplexity"] == pytest.approx(alone.score("the").perplexity)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "auto"])
def test_every_dtype_writes_and_scores(trained, generator, dtype):
    other = tfgpt.Generator.load(str(trained[1]), dtype=dtype, slots=2)
    text = "the model learns to read and write small words in long lines"
    assert abs(other.score(text).total - generator.score(text).total) < 0.03 * len(text)
    (first, _), (again, _) = (other.generate("the", seed=1, num_samples=2, length=40) for _ in range(2))
    assert first.text == again.text and first.tokens == again.tokens


def test_what_does_not_fit_together_is_refused(trained, tmp_path):
    letters = train_char(["".join(map(chr, range(300, 700)))])
    letters.save(tmp_path / "letters")
    with pytest.raises(UserError, match="do not belong together"):
        tfgpt.Generator.load(str(trained[1]), tokenizer=str(tmp_path / "letters"))
    with pytest.raises(UserError, match="int4"):
        tfgpt.Generator.load(str(trained[1]), dtype="int4")
    with pytest.raises(UserError, match="slots"):
        tfgpt.Generator.load(str(trained[1]), slots=0)
    with pytest.raises(UserError, match="no such folder"):
        tfgpt.Generator.load(str(tmp_path / "none"))


def test_checkpoints_without_their_tokenizer(trained, tmp_path, monkeypatch):
    from tfgpt.native import engine
    from tfgpt.training import snapshot
    from tfgpt.training.checkpoints import Checkpoints

    class Packed(FakeEngine):
        def __init__(self, weights, form, *, slots, dtype, consume):
            assert weights["wte.weight"].shape == (320, 32) and consume
            super().__init__(n_vocab=form.n_vocab, slots=slots)
            self.dtype, self.reason = dtype, ""

    monkeypatch.setattr(engine, "Engine", Packed)
    estimator, _ = trained
    weights = snapshot.weights_of(estimator.step)
    config = estimator.config.model_dump(mode="json")
    for name, tokenizer in (("byte", "byte"), ("lost", "some/folder")):
        kept = Checkpoints(str(tmp_path / name), keep_last=1)
        kept.save(1, weights, {}, {"n_vocab": 257}, {**config, "tokenizer": tokenizer}, None, wait=True)
    assert tfgpt.Generator.load(str(tmp_path / "byte")).generate("a", length=3)[0].prompt_tokens == 1
    with pytest.raises(UserError, match="holds no tokenizer") as error:
        tfgpt.Generator.load(str(tmp_path / "lost"))
    assert "--tokenizer" in error.value.fix
    assert tfgpt.Generator.load(str(tmp_path / "lost"), tokenizer="byte").language.size == 257


@pytest.mark.parametrize("seed", range(3))
def test_any_prompt_and_any_legal_options(generator, seed):
    draw = random.Random(seed)
    for _ in range(8):
        keys = options_of(draw, 257)
        prompts = [prompt_of(draw) for _ in range(draw.randint(1, 4))]
        for result in generator.generate(prompts, **keys):
            assert 1 <= len(result.tokens) <= keys["length"] and all(0 <= token < 257 for token in result.tokens)
            assert generator.language.decode(result.tokens).startswith(result.text)


def test_main_py_in_a_process_of_its_own(trained, generator, tmp_path):
    settings = {**small.KEYS, **KEYS, "model_path": str(trained[1]), "data_path": "gone", "predict_path": "p/out.txt"}
    (tmp_path / "m.json").write_text(json.dumps(settings))
    words = [sys.executable, str(ROOT / "main.py"), "--model", "m.json", "--predict_text", "we", "--top_k", "4"]
    words += ["--dtype", "float32", "--seed", "8", "--length", "10"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, timeout=300, env={**os.environ})
    assert done.returncode == 0, done.stderr
    texts = [result.text for result in generator.generate("we", seed=8, top_k=4, num_samples=2, length=10)]
    line = "=" * 40
    expected = "".join(f"{line} SAMPLE {i} {line}\nwe{text}\n{line}{line}\n" for i, text in enumerate(texts))
    assert done.stdout == expected.encode() == (tmp_path / "p/out.txt").read_bytes()


def test_the_package_itself_stays_light():
    code = "import tfgpt, sys; print(any(name in sys.modules for name in ('numpy', 'tensorflow', 'pydantic')))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="Generatr"):
        _ = tfgpt.Generatr
