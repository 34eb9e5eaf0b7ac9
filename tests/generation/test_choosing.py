"""What "auto" chooses."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

from tfgpt.errors import UserError
from tfgpt.model.shape import Shape

LARGE = Shape(n_vocab=50257, n_ctx=64, n_embd=768, n_layer=4, n_head=12, attention=("global",) * 4)
SMALL = Shape(n_vocab=65, n_ctx=64, n_embd=64, n_layer=2, n_head=2, attention=("global",) * 2)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"float32": 4.0, "bfloat16": 2.0, "int8": 1.0}, "int8"),
        ({"float32": 4.0, "bfloat16": 2.0, "int8": 9.0}, "bfloat16"),
        ({"float32": 4.0, "bfloat16": 3.9, "int8": 3.8}, "float32"),  # not worth what it costs
        ({"float32": 1.0, "bfloat16": 2.0, "int8": 3.0}, "float32"),
    ],
)
@pytest.mark.parametrize("slots", [1, 8])
def test_auto_takes_what_the_clock_says(monkeypatch, seconds, chosen, slots):
    from tfgpt.generation import choosing

    monkeypatch.setattr(choosing, "seconds_of", lambda product, width, slots: seconds[product.dtype])
    product, why = choosing.choose("auto", LARGE, slots=slots)
    assert product.dtype == chosen and "on this machine" in why
    assert choosing.choose("auto", SMALL, slots=slots)[0].dtype == "float32"
    assert choosing.choose("bfloat16", SMALL, slots=slots)[0].dtype == "bfloat16"


@pytest.mark.parametrize("slots", [1, 2])
def test_the_clock_runs_on_the_real_products(slots):
    from tfgpt.generation.choosing import seconds_of
    from tfgpt.generation.options import DTYPES
    from tfgpt.generation.products import Product

    assert all(0 < seconds_of(Product(dtype), 64, slots) < 5 for dtype in DTYPES if dtype != "auto")


def test_an_unknown_type_names_the_legal_ones():
    from tfgpt.generation.choosing import choose

    with pytest.raises(UserError) as caught:
        choose("int4", SMALL, slots=1)
    assert "int8" in str(caught.value)
