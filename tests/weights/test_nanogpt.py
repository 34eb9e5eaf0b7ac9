"""nanoGPT's checkpoints, against a module with its names and layout, and against transformers."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from tfgpt.errors import UserError
from tfgpt.weights import huggingface, nanogpt

torch = pytest.importorskip("torch")
nn, functional = torch.nn, torch.nn.functional

ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "bias": True, "vocab_size": 40, "dropout": 0.0}
IDS = [1, 7, 39, 0, 22, 22, 8, 3]


class Norm(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, x):
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, 1e-5)


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias=bias), nn.Linear(width, width, bias=bias)
        self.heads = heads

    def forward(self, x):
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1)]
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        return self.c_proj(mixed.transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, width, bias):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width, bias=bias), nn.Linear(4 * width, width, bias=bias)

    def forward(self, x):
        return self.c_proj(functional.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.ln_1, self.attn = Norm(width, bias), Attention(width, heads, bias)
        self.ln_2, self.mlp = Norm(width, bias), Mlp(width, bias)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Nano(nn.Module):
    """nanoGPT's GPT, as far as names and numbers go."""

    def __init__(self, n_layer, n_head, n_embd, block_size, bias, vocab_size, dropout):
        super().__init__()
        parts = {"wte": nn.Embedding(vocab_size, n_embd), "wpe": nn.Embedding(block_size, n_embd)}
        parts["h"] = nn.ModuleList(Block(n_embd, n_head, bias) for _ in range(n_layer))
        self.transformer = nn.ModuleDict(parts | {"ln_f": Norm(n_embd, bias)})
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight
        with torch.no_grad():
            for value in self.parameters():
                value += 0.2 * torch.randn_like(value)

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(ids.shape[1]))
        for block in self.transformer.h:
            x = block(x)
        return self.lm_head(self.transformer.ln_f(x))


def made(**changes):
    torch.manual_seed(0)
    args = ARGS | changes
    return Nano(**args).eval(), args


def save(path, module, args, prefix="", **more):
    """ckpt.pt as nanoGPT's train.py writes it, Adam's state and all."""
    adam = torch.optim.AdamW(module.parameters(), lr=1e-3)
    module(torch.tensor([IDS])).sum().backward()
    adam.step()
    content = {
        "model": {f"{prefix}{name}": value for name, value in module.state_dict().items()} | more,
        "optimizer": adam.state_dict(),
        "model_args": args,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"init_from": "scratch", "learning_rate": 6e-4, "compile": True, "device": "cpu"},
    }
    torch.save(content, path)


def test_every_tensor(tmp_path):
    module, args = made()
    save(tmp_path / "ckpt.pt", module, args)
    assert nanogpt.recognises(tmp_path) and nanogpt.recognises(tmp_path / "ckpt.pt")
    source = nanogpt.read(tmp_path)
    assert source.keys == {
        "n_layer": 2, "n_head": 2, "n_embd": 16, "n_ctx": 8, "n_vocab": 40, "activation": "gelu",
    }  # fmt: skip
    assert source.tokenizer is None and len(source.notes) == 1 and "activation=gelu_tanh" in source.notes[0]
    state = {name.removeprefix("transformer."): value.numpy() for name, value in module.state_dict().items()}
    del state["lm_head.weight"]
    assert source.tensors.keys() == state.keys()
    turned = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    for name, tensor in source.tensors.items():
        wanted = state[name].T if name.endswith(turned) else state[name]
        assert tensor.read().dtype == np.float32 and np.array_equal(tensor.read(), wanted), name


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_it_computes_the_same(bias, prefix, tmp_path):
    transformers = pytest.importorskip("transformers")
    module, args = made(bias=bias)
    save(tmp_path / "a.pt", module, args, prefix)
    (tmp_path / "b").mkdir()
    source = nanogpt.read(tmp_path / "a.pt")
    assert any("biases" in note for note in source.notes) is not bias
    huggingface.write(source, tmp_path / "b")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    with torch.no_grad():
        ids = torch.tensor([IDS])
        assert abs(theirs(ids).logits - module(ids)).max() < 1e-5 < module(ids).std()


def test_masks_of_old_versions_are_passed_over(tmp_path):
    module, args = made()
    args.pop("bias")  # which was not an option then
    save(tmp_path / "ckpt.pt", module, args, **{"transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8)})
    assert nanogpt.read(tmp_path).tensors["h.1.attn.c_attn.bias"].read().any()


@pytest.mark.parametrize("size, kept", [(50304, 50257), (50303, 50303)])
def test_rows_of_no_token(size, kept, tmp_path):
    module, args = made(n_layer=1, n_embd=2, n_head=1, vocab_size=size)
    save(tmp_path / "ckpt.pt", module, args)
    source = nanogpt.read(tmp_path)
    table = source.tensors["wte.weight"]
    assert source.keys["n_vocab"] == kept and table.shape == table.read().shape == (kept, 2)
    assert np.array_equal(table.read(), module.lm_head.weight.detach().numpy()[:kept])
    assert any("50257" in note for note in source.notes) is (kept != size)


def test_its_letters(tmp_path):
    letters = [chr(97 + i) for i in range(26)] + list("0123456789 .,!")
    meta = {"vocab_size": 40, "itos": dict(enumerate(letters)), "stoi": {c: i for i, c in enumerate(letters)}}
    (tmp_path / "meta.pkl").write_bytes(pickle.dumps(meta))
    save(tmp_path / "ckpt.pt", *made())
    tokenizer = nanogpt.read(tmp_path).tokenizer
    assert tokenizer.encode("abc 9") == [0, 1, 2, 36, 35] and tokenizer.n_vocab == 40


def _untied(content):
    content["model"]["lm_head.weight"] = content["model"]["lm_head.weight"] + 1e-6


def _missing(content):
    del content["model"]["transformer.h.1.mlp.c_fc.bias"]


def _misshapen(content):
    content["model"]["transformer.h.1.mlp.c_fc.weight"] = torch.ones(16, 64)


def _strange(content):
    content["model"]["transformer.extra"] = torch.ones(1)


def _blocks(content):
    content["model_args"]["n_layer"] = 3


def _numbers(content):
    content["model"]["transformer.ln_f.bias"] = 3


def _nameless(content):
    content["model"][7] = torch.ones(1)


def _size(content):
    content["model_args"]["vocab_size"] = "40"


def _no_model(content):
    del content["model"]


@pytest.mark.parametrize(
    "edit, said",
    [
        (_untied, "not the embedding table"),
        (_missing, "c_fc.bias is missing"),
        (_misshapen, r"c_fc.weight is \[64, 16\], needed \[16, 64\]"),
        (_strange, "extra is not part"),
        (_blocks, '"n_layer" is 3, but the file has tensors of 2'),
        (_numbers, "ln_f.bias is a int"),
        (_nameless, "name"),
        (_size, "vocab_size"),
        (_no_model, "no checkpoint of nanoGPT"),
    ],
)
def test_what_does_not_fit(edit, said, tmp_path):
    path = tmp_path / "ckpt.pt"
    save(path, *made())
    content = torch.load(path)
    edit(content)
    torch.save(content, path)
    with pytest.raises(UserError, match=said) as caught:
        nanogpt.read(path)
    assert "ckpt.pt" in str(caught.value)


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_pickle_with_code_is_not_run(tmp_path):
    module, args = made()
    save(tmp_path / "ckpt.pt", module, args | {"dropout": Evil(tmp_path / "run")})
    with pytest.raises(UserError, match="refused: this file asks to run .*mkdir"):
        nanogpt.read(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"not a pickle", [1, 2], {"model": 1, "model_args": 2}])
def test_other_files(content, tmp_path):
    path = tmp_path / "ckpt.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError, match="ckpt.pt"):
        nanogpt.read(path)


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    assert not any(nanogpt.recognises(tmp_path / name) for name in ("", "a.txt", "nowhere.pt"))
