"""The server by its wire: a real process, real clients, and what people and networks do to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving.conftest import Served

SHORT = {"prompt": "Once upon", "max_tokens": 12, "seed": 3}
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


def test_more_than_the_queue_holds_is_sent_away_with_a_time_to_come_back(serve):
    server = serve(queue=4, slots=2)
    with ThreadPoolExecutor(40) as pool:
        found = list(
            pool.map(lambda i: server.post("/v1/completions", LONG | {"seed": i, "max_tokens": 200}), range(40))
        )
    codes = [one.status_code for one in found]
    assert set(codes) == {200, 429} and codes.count(200) >= 6
    refused = next(one for one in found if one.status_code == 429)
    assert int(refused.headers["retry-after"]) >= 1 and refused.json()["error"]["type"] == "rate_limit_error"
    assert server.post("/v1/completions", SHORT).status_code == 200


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
    swaps = int(os.environ.get("TFGPT_SWAPS", "3"))
    for i in range(swaps + 1):
        key, seed, code, body = ask(i)
        assert code == 200 and (body["choices"][0]["text"], body["system_fingerprint"]) == right[key, seed]
    assert server.metric("tfgpt_loads_total") >= loads + swaps
    assert len(server.children()) <= 3  # one model, one that waits for the next, and multiprocessing's own


def test_a_model_whose_process_dies_is_started_anew(serve):
    server = serve()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, "/v1/completions", LONG)
        time.sleep(0.3)
        for pid in server.children():
            os.kill(pid, signal.SIGKILL)
        assert running.result().status_code == 503
    again = server.post("/v1/completions", SHORT)
    assert again.status_code == 200 and again.json()["choices"][0]["text"]


def test_sigterm_lets_a_text_end_and_takes_no_new_one(serve):
    server = serve()
    with httpx.stream("POST", server.url + "/v1/completions", json=LONG | {"stream": True}, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.HTTPError):
            httpx.post(server.url + "/v1/completions", json=SHORT, timeout=5).raise_for_status()
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]" and json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(30) in (0, 143, -signal.SIGTERM)
    assert not server.children()


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


@pytest.mark.slow
def test_a_newer_checkpoint_is_served_without_a_failed_request(models, tmp_path):
    from tfgpt.training import importing, opening

    run = tmp_path / "run"
    importing.write(opening.source(str(models / "one")), str(run / "checkpoints/step-00000000"), settings={})
    settings = {"models": [{"key": "general", "path": str(run), "dtype": "float32"}], "reload": 0.5}
    server = Served(models, tmp_path, **settings)
    try:
        first = server.ready().post("/v1/completions", SHORT).json()
        importing.write(opening.source(str(models / "two")), str(tmp_path / "new/step-00000000"), settings={})
        codes, found = set(), first
        os.rename(run / "checkpoints/step-00000000", tmp_path / "old")
        os.rename(tmp_path / "new/step-00000000", run / "checkpoints/step-00000000")
        end = time.monotonic() + 60
        while found["system_fingerprint"] == first["system_fingerprint"] and time.monotonic() < end:
            answer = server.post("/v1/completions", SHORT)
            codes.add(answer.status_code)
            found = answer.json()
            time.sleep(0.05)
        assert codes == {200} and found["choices"][0]["text"] != first["choices"][0]["text"]
    finally:
        server.kill()
