"""The server by its wire: a real process, real clients, and what people and networks do to it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.conftest import Served

SHORT = {"prompt": "Once upon", "max_tokens": 12, "seed": 3}
SWAPS = int(os.environ.get("TFGPT_SWAPS", "1"))  # one after the other; with more, bad checkpoints come among them
LONG = {"model": "general", "prompt": "Once upon", "max_tokens": 4000, "ignore_eot": True, "seed": 1}


def test_the_seeds_curl_line_answers_with_plain_text(server):
    line = ["curl", "-s", "-i", "--data", '{"model_key": "general", "raw_text": "Once upon a time\\n"}']
    said = subprocess.run([*line, f"{server.url}/invocations"], capture_output=True, timeout=60).stdout.decode()
    head, _, text = said.partition("\r\n\r\n")
    assert " 200 " in head.splitlines()[0] and "text/plain" in head and text
    same = {"model_key": "general", "raw_text": "Once upon a time", "seed": 5}
    answers = [server.post("/invocations", same | more).text for more in ({}, {}, {"seed": 6}, {"temperature": 1.5})]
    assert answers[0] == answers[1] and len(set(answers)) == 3
    found = server.post("/invocations", same, headers={"Accept": "application/json"}).json()
    assert found["text"] == answers[0] and 1 <= found["tokens"] <= 120 and found["model_key"] == "general"


def test_the_older_routes(server):
    assert httpx.get(server.url + "/ping").text == "Pong!"
    assert server.post("/prime", {"model_key": "other"}).text == "primed other"
    before = httpx.get(server.url + "/models/list").json()
    assert [m["model_key"] for m in before["models"]] == ["general", "other"] and before["active_model"][
        "key"
    ] == "other"
    server.post("/invocations", {"model_key": "general", "raw_text": "x"})
    after = httpx.get(server.url + "/models/list").json()
    assert after["models"][0]["num_inferences"] == before["models"][0]["num_inferences"] + 1
    assert isinstance(httpx.get(server.url + "/gputemp").json(), list)
    assert "tfgpt" in httpx.get(server.url + "/").text


def test_openais_own_client(server):
    openai = pytest.importorskip("openai")
    short = SHORT | {"extra_body": {"ignore_eot": True}}
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["general", "other"]
    assert client.models.retrieve("other").id == "other"
    whole = client.completions.create(model="general", **short, n=2, logprobs=0, echo=True)
    assert [choice.index for choice in whole.choices] == [0, 1]
    assert all(choice.text.startswith("Once upon") for choice in whole.choices)
    assert whole.usage.completion_tokens == 24 and whole.usage.total_tokens == 24 + whole.usage.prompt_tokens
    assert len(whole.choices[0].logprobs.token_logprobs) == 12 and max(whole.choices[0].logprobs.token_logprobs) <= 0
    one = client.completions.create(model="general", **short).choices[0]
    assert whole.choices[0].text == "Once upon" + one.text and one.finish_reason == "length"
    pieces = list(
        client.completions.create(model="general", **short, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(p.choices[0].text for p in pieces if p.choices) == one.text
    assert pieces[-1].usage.completion_tokens == 12 and len({p.id for p in pieces}) == 1
    stop = one.text[4:6]
    cut = client.completions.create(model="general", **short, stop=[stop]).choices[0]
    assert cut.text == one.text[: one.text.index(stop)] and cut.finish_reason == "stop"
    many = client.completions.create(
        model="general", prompt=["Once upon", [1, 2, 3]], max_tokens=12, seed=3, extra_body={"ignore_eot": True}
    )
    assert many.choices[0].text == one.text and len(many.choices) == 2

    words = {
        "model": "other",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}],
    }
    talk = client.chat.completions.create(**words, max_tokens=8, seed=2, logprobs=True)
    message = talk.choices[0].message
    assert message.role == "assistant" and len(talk.choices[0].logprobs.content) == talk.usage.completion_tokens
    stream = list(client.chat.completions.create(**words, max_tokens=8, seed=2, stream=True))
    assert stream[0].choices[0].delta.role == "assistant"
    assert "".join(p.choices[0].delta.content or "" for p in stream) == message.content
    assert stream[-1].choices[0].finish_reason == talk.choices[0].finish_reason
    with pytest.raises(openai.NotFoundError, match="there is no model"):
        client.completions.create(model="nobody", prompt="x")
    with pytest.raises(openai.BadRequestError, match="temperature must be"):
        client.completions.create(model="general", prompt="x", temperature=-1)


WRONG = {
    "not JSON": ("/v1/completions", b"{", 400),
    "not an object": ("/v1/completions", b"[1]", 400),
    "deep": ("/v1/completions", b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 400),
    "large": ("/invocations", b'{"raw_text": "' + b"x" * (5 << 20) + b'"}', 413),
    "no text": ("/invocations", {"model_key": "general"}, 400),
    "no model": ("/invocations", {"model_key": "../one", "raw_text": "x"}, 404),
    "not a number": ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400),
    "NaN": ("/v1/completions", b'{"prompt": "x", "temperature": NaN}', 400),
    "below zero": ("/v1/completions", {"prompt": "x", "temperature": -1}, 400),
    "an empty stop": ("/v1/completions", {"prompt": "x", "stop": ["a"] * 100 + [""]}, 400),
    "too many": ("/v1/completions", {"prompt": "x", "n": 1000}, 400),
    "too long": ("/v1/completions", {"prompt": "x", "max_tokens": 10**6}, 400),
    "an id that there is not": ("/v1/completions", {"prompt": [10**9]}, 400),
    "a bias that there is not": ("/v1/completions", {"prompt": "x", "logit_bias": {"99999": 1}}, 400),
    "misspelt": ("/v1/completions", {"prompt": "x", "temprature": 1}, 400),
    "tools": ("/v1/completions", {"prompt": "x", "tools": [{"type": "function"}]}, 400),
    "no messages": ("/v1/chat/completions", {"messages": []}, 400),
    "an odd message": ("/v1/chat/completions", {"messages": [{"role": "king", "content": "x"}]}, 400),
    "a picture": ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400),
    "nowhere": ("/v1/nothing", {}, 404),
    "another method": ("/ping", {}, 405),
    "a stream of nonsense": ("/v1/completions", {"prompt": [10**9], "stream": True}, 200),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_and_harms_nobody(server, name):
    path, body, status = WRONG[name]
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = httpx.post(server.url + path, content=body, timeout=60)
    assert found.status_code == status, found.text
    error = json.loads(found.text.removeprefix("data: ").split("\n\n")[0])["error"]
    assert error["message"] and error["type"].endswith("_error") and "Traceback" not in found.text
    assert server.post("/v1/completions", SHORT).status_code == 200


def test_older_http_other_types_and_who_waits_for_a_go_ahead(server):  # S1
    body = json.dumps(SHORT).encode()
    head = b"POST /v1/completions HTTP/%s\r\nHost: x\r\nContent-Type: %s\r\n%sConnection: close\r\n\r\n"
    length = b"Content-Length: %d\r\n" % len(body)
    pieces = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:9], body[9:])) + b"0\r\n\r\n"
    answers = set()
    for version, kind, more, sent in (
        (b"1.0", b"application/json", length, body),
        (b"1.1", b"text/html", length + b"Expect: 100-continue\r\n", body),
        (b"1.1", b"application/x-www-form-urlencoded", b"Transfer-Encoding: chunked\r\n", pieces),
    ):
        with server.connect() as there:
            there.sendall(head % (version, kind, more))
            if b"Expect" in more:
                assert there.recv(1000).startswith(b"HTTP/1.1 100 ")
            there.sendall(sent)
            said = b"".join(iter(lambda there=there: there.recv(10_000), b""))
        first, _, text = said.partition(b"\r\n\r\n")
        assert b" 200 " in first.splitlines()[0], said
        answers.add(json.loads(text)["choices"][0]["text"])
    assert len(answers) == 1


def test_names_neither_reach_files_nor_become_headers(server):  # S9
    bad = ["../one", "..%2f..%2fetc%2fpasswd", "general%0d%0aX-Evil: 1", "%00", "a" * 50_000]
    for name in bad:
        found = httpx.get(f"{server.url}/v1/models/{name[:5000]}")
        assert found.status_code == 404 and "x-evil" not in found.headers and "root:" not in found.text
        found = server.post("/v1/completions", SHORT | {"model": name + "\r\nX-Evil: 1"})
        assert found.status_code == 404 and "x-evil" not in found.headers and len(found.text) < 1000
        assert server.post("/prime", {"model_key": name}).status_code == 404


def test_a_million_tokens_of_prompt_are_cut_to_the_context(server):
    found = server.post("/v1/completions", {"prompt": "word " * 200_000, "max_tokens": 2, "seed": 1})
    assert found.status_code == 200 and found.json()["usage"]["completion_tokens"] == 2


def test_the_same_seed_is_the_same_text_alone_and_in_company(server):
    asks = [{"model": "general", "prompt": f"Text {i}", "max_tokens": 30, "seed": i} for i in range(16)]
    alone = [server.post("/v1/completions", ask).json()["choices"][0]["text"] for ask in asks]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda ask: server.post("/v1/completions", ask).json()["choices"][0]["text"], asks))
    assert together == alone and len(set(alone)) == 16


def test_who_leaves_frees_the_place_at_once(server):
    before = server.metric('tfgpt_generated_tokens_total{model="general"}')
    with httpx.stream("POST", server.url + "/v1/completions", json=LONG | {"stream": True}, timeout=60) as stream:
        texts = stream.iter_text()  # held, or httpx closes the connection with it
        next(texts)
        assert server.metric("tfgpt_waiting") == 1
    with socket.create_connection(server.url.removeprefix("http://").split(":")) as rude:
        body = json.dumps(LONG).encode()
        rude.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        time.sleep(0.3)
    end = time.monotonic() + 2
    while server.metric("tfgpt_waiting") and time.monotonic() < end:
        time.sleep(0.02)
    assert server.metric("tfgpt_waiting") == 0
    assert server.metric('tfgpt_generated_tokens_total{model="general"}') - before < 4000


@pytest.fixture(scope="module")
def small(models, tmp_path_factory):
    """A server with few places, for tests that do not leave it as it was; the last of them ends it."""
    found = Served(models, tmp_path_factory.mktemp("small"), queue=4, slots=2)
    yield found.ready()
    found.kill()


def test_more_than_the_queue_holds_is_sent_away_with_a_time_to_come_back(small):
    server = small
    with ThreadPoolExecutor(40) as pool:
        found = list(
            pool.map(lambda i: server.post("/v1/completions", LONG | {"seed": i, "max_tokens": 200}), range(40))
        )
    codes = [one.status_code for one in found]
    assert set(codes) == {200, 429} and codes.count(200) >= 6
    refused = next(one for one in found if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["type"] == "rate_limit_error"
    assert server.post("/v1/completions", SHORT).status_code == 200


def test_two_hundred_clients_on_eight_slots(server):  # S3
    ask = LONG | {"max_tokens": 40}
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=server.url, timeout=120, limits=limits) as client, ThreadPoolExecutor(200) as pool:
        found = list(pool.map(lambda i: client.post("/v1/completions", json=ask | {"seed": i}).status_code, range(200)))
    assert set(found) <= {200, 429} and found.count(200) >= 72  # of the slots and the queue
    assert server.metric("tfgpt_waiting") == 0


def test_who_comes_first_is_served_first(server):  # S3
    began, enough = [], threading.Event()
    body = json.dumps(LONG | {"stream": True, "max_tokens": 20_000}).encode()
    held = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    def late(number):
        with httpx.stream("POST", server.url + "/v1/completions", content=body, timeout=60) as stream:
            lines = stream.iter_lines()
            next(lines)
            began.append(number)
            enough.wait(60)  # it keeps its place, so that no other falls free

    holders = [server.connect() for _ in range(8)]
    with ThreadPoolExecutor(6) as pool:
        for holder in holders:
            holder.sendall(held)
        server.settled("tfgpt_waiting", 8.0)
        for number in range(6):
            pool.submit(late, number)
            server.settled("tfgpt_waiting", 9.0 + number)
        assert not began
        for number, holder in enumerate(holders[:6]):  # a place falls free, and it is the next one's
            holder.close()
            end = time.monotonic() + 20
            while number not in began and time.monotonic() < end:
                time.sleep(0.01)
            assert began == list(range(number + 1))
        enough.set()
    for holder in holders:
        holder.close()
    server.settled("tfgpt_waiting")


def test_a_model_whose_process_dies_is_started_anew(small):
    server = small
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/v1/completions", LONG)
        time.sleep(0.3)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        assert running.result().status_code == 503
    # The one that waited was killed as well: if it had been taken up by then, that is a second fall, and the model rests.
    end = time.monotonic() + 60
    while (again := server.post("/v1/completions", SHORT)).status_code == 503 and time.monotonic() < end:
        time.sleep(int(again.headers["Retry-After"]))
    assert again.status_code == 200 and again.json()["choices"][0]["text"]


def test_sigterm_lets_a_text_end_and_takes_no_new_one(small):
    server = small
    with httpx.stream("POST", server.url + "/v1/completions", json=LONG | {"stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.HTTPError):
            httpx.post(server.url + "/v1/completions", json=SHORT, timeout=5).raise_for_status()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(30) == 0
    assert not server.children()


@pytest.mark.slow
def test_two_models_in_the_memory_of_one_never_mix(serve):
    """Fifty requests at once, then swaps one after the other (TFGPT_SWAPS): none fails, and the right weights answer each."""
    server = serve(memory=1.2, queue=200)

    def ask(i):
        key = ("general", "other")[i % 2]
        found = server.post("/v1/completions", SHORT | {"model": key, "seed": i % 4})
        return key, i % 4, found.status_code, found.json()

    right = {}
    for i in (0, 2, 1, 3):  # of i, the key is the last bit, and the seed both
        key, seed, code, body = ask(i)
        right[key, seed] = body["choices"][0]["text"], body["system_fingerprint"]
    assert len(set(right.values())) == 4
    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(50)))
    for key, seed, code, body in found:
        assert code == 200 and (body["choices"][0]["text"], body["system_fingerprint"]) == right[key, seed]
    loads = server.metric("tfgpt_loads_total")
    for i in range(SWAPS + 1):
        key, seed, code, body = ask(i)
        assert code == 200 and (body["choices"][0]["text"], body["system_fingerprint"]) == right[key, seed]
    assert server.metric("tfgpt_loads_total") >= loads + SWAPS
    assert len(server.children()) <= 3  # one model, one that waits for the next, and multiprocessing's own


def test_a_token_keeps_others_out(serve):
    server = serve(token="a long secret")
    assert server.post("/v1/completions", SHORT).status_code == 401
    assert httpx.get(server.url + "/metrics").status_code == 401
    assert server.post("/v1/completions", SHORT, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert server.post("/v1/completions", SHORT, headers={"Authorization": "Bearer a long secret"}).status_code == 200
    assert httpx.get(server.url + "/ping").status_code == 200


def test_neither_prompts_nor_escapes_reach_the_log(server):
    server.post("/v1/completions", {"prompt": "a secret of mine", "max_tokens": 1})
    with socket.create_connection(server.url.removeprefix("http://").split(":")) as rude:
        rude.sendall(b"GET /\x1b[31mred%1b%5b31m HTTP/1.1\r\nHost: x\r\n\r\n")
        rude.settimeout(5)
        rude.recv(1000)
    log = server.log.read_text("utf-8")
    assert "secret" not in log and "\x1b" not in log


def checkpoint(models, run, name, weights, *, spoilt=False, shape=None):
    """A newer checkpoint of a run; `spoilt` in a byte, or with a `shape` that its weights do not have."""
    from tfgpt.training import importing, manifest, opening

    new = run.parent / "new" / "step-00000000"
    importing.write(opening.source(str(models / weights)), str(new), settings={})
    if shape:
        config = new / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | shape))
    sealed = manifest.read(str(new))
    parts = {n: manifest.Part(os.stat(new / n).st_size, sha256(new / n)) for n in sealed.parts}
    serial = 1 + max((int(entry.serial or 0) for entry in manifest.entries(str(run / "checkpoints"))), default=0)
    (new / "manifest.json").write_bytes(manifest.seal(sealed._replace(serial=serial, parts=parts)))
    if spoilt:
        data = bytearray((new / "weights.safetensors").read_bytes())
        data[-1] ^= 1
        (new / "weights.safetensors").write_bytes(data)
    place = run / "checkpoints" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    os.rename(new, place)
    return "fp_" + hashlib.sha256(repr(parts["weights.safetensors"].sha256).encode()).hexdigest()[:12]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_newer_checkpoint_is_served_and_a_bad_one_is_not_without_a_failed_request(models, tmp_path):  # S4
    run = tmp_path / "run"
    right = [checkpoint(models, run, "step-00000000", "one")]
    settings = {"models": [{"key": "general", "path": str(run), "dtype": "float32"}], "reload": 0.3}
    server = Served(models, tmp_path, **settings)
    texts = {}

    def ask_until(done):
        end = time.monotonic() + 90
        while not done():
            assert time.monotonic() < end, server.log.read_text()
            answer = server.post("/v1/completions", SHORT)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert answer.headers["x-model-fingerprint"] == found["system_fingerprint"][3:]
            texts.setdefault(found["system_fingerprint"], set()).add(found["choices"][0]["text"])
            time.sleep(0.02)

    try:
        server.ready()
        ask_until(lambda: texts)
        if SWAPS > 1:
            # What does not fit its own configuration, and before it something that is not even whole.
            checkpoint(models, run, "step-00000000.2", "two", shape={"n_embd": 48})
            checkpoint(models, run, "step-00000000.3", "two", spoilt=True)
            ask_until(lambda: "do not have the shapes" in server.log.read_text())
        right.append(checkpoint(models, run, "step-00000000.4", "two"))
        ask_until(lambda: right[1] in texts)
        # Each fingerprint is that of the file which wrote the answer, and of one text.
        assert list(texts) == right and len({text for (text,) in texts.values()}) == 2
        checkpoint(models, run, "step-00000000.5", "one")
        time.sleep(0.5)  # in the midst of loading it
        children = server.children()
        assert server.end() == 0
        server.gone(children)
    finally:
        server.kill()
