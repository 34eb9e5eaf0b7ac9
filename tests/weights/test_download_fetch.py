"""One file over HTTP, from a server on this machine that cuts, lies, stalls and changes its mind."""

from __future__ import annotations

import base64
import hashlib
import random
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tfgpt.errors import Failure
from tfgpt.weights.fetch import Patience, fetch

DATA = random.Random(7).randbytes(300_000)
SHA = hashlib.sha256(DATA).hexdigest()
QUICK = Patience(connect=2.0, read=0.4, tries=4, wait=0.01, longest_wait=0.05, window=0.3, slowest=1000)


class Server(ThreadingHTTPServer):
    """Answers each request as the next word of `plan` says, then honestly; keeps what was asked in `asked`."""

    daemon_threads = True
    # A test that asks for a hang must not wait for it at the end.
    block_on_close = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.tag, self.extra = DATA, '"v1"', {}
        self.plan, self.asked, self.over = [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def handle_error(self, request, client_address):
        pass

    def ranges(self):
        return [headers.get("Range") for _, headers in self.asked]


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, dict(self.headers)))
        word, _, value = (server.plan.pop(0) if server.plan else "honest").partition(" ")
        if word == "status":
            self.send_response(int(value))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if word == "redirect":
            self.send_response(302)
            self.send_header("Location", value)
            self.end_headers()
            return
        data, start = server.data, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and word != "ignore_range" and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(asked[1])
            if start >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.end_headers()
                return
            self.send_response(206)
            first = 0 if word == "wrong_range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        body = data[start:]
        if word == "wrong_bytes":
            body = bytes(len(body))
        if word == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif word != "no_length":
            self.send_header("Content-Length", str(len(body) + int(value if word == "lie" else 0)))
        if server.tag:
            self.send_header("ETag", server.tag)
        for key, text in server.extra.items():
            self.send_header(key, text)
        self.end_headers()
        if word == "chunked":
            pieces = [body[i : i + 70_000] for i in range(0, len(body), 70_000)]
            for piece in pieces[: int(value)]:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if int(value) >= len(pieces):
                self.wfile.write(b"0\r\n\r\n")
            return
        if word == "cut":
            body = body[: int(value)]
        if word == "slow":
            for i in range(0, len(body), 2000):
                self.wfile.write(body[i : i + 2000])
                time.sleep(0.02)
            return
        if word in ("hang", "trickle"):
            self.wfile.write(body[:50_000])
            self.wfile.flush()
            at = 50_000
            while not server.over.wait(0.05):
                if word == "trickle":
                    self.wfile.write(body[at : at + 1])
                    at += 1
            return
        self.wfile.write(body)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


def get(server, folder, *, urls=None, size=300_000, sha256=SHA, patience=QUICK, **kwargs):
    urls = urls or [server.url + "/f.bin"]
    return fetch(urls, folder / "f.bin", label="f.bin", size=size, sha256=sha256, patience=patience, **kwargs)


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def is_whole(folder):
    return (folder / "f.bin").read_bytes() == DATA and left(folder) == ["f.bin"]


def test_a_plain_download(server, tmp_path):
    assert get(server, tmp_path) == (len(DATA), SHA, server.url + "/f.bin")
    assert is_whole(tmp_path)
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("known", [True, False])
def test_cut_connections_are_gone_on_with(server, tmp_path, known, capsys):
    server.plan = ["cut 100000", "cut 1", "cut 50000"]
    get(server, tmp_path, **({} if known else {"size": None, "sha256": None}))
    assert is_whole(tmp_path)
    assert server.ranges() == [None, "bytes=100000-", "bytes=100001-", "bytes=150001-"]
    assert all(headers.get("If-Range") == '"v1"' for _, headers in server.asked[1:])
    assert "the connection ended at 100,000 of 300,000 bytes" in capsys.readouterr().err


def test_progress_renews_the_patience(server, tmp_path):
    server.data = data = random.Random(8).randbytes(9 << 20)
    server.plan = [f"cut {(1 << 20) + 5}"] * 7
    get(server, tmp_path, size=None, sha256=None)
    assert (tmp_path / "f.bin").read_bytes() == data and len(server.asked) == 8


def test_tries_come_to_an_end_and_what_is_here_is_kept(server, tmp_path):
    server.plan = ["cut 100000"] + ["cut 0"] * 20
    with pytest.raises(Failure, match="4 tries") as caught:
        get(server, tmp_path)
    assert len(server.asked) == 4 and "--from_dir" in caught.value.fix
    assert left(tmp_path) == ["f.bin.part", "f.bin.part.json"]
    server.plan = []
    get(server, tmp_path)
    assert is_whole(tmp_path) and server.ranges()[-1] == "bytes=100000-"


def test_a_server_that_ignores_ranges_starts_over(server, tmp_path):
    server.plan = ["cut 100000", "ignore_range"]
    get(server, tmp_path)
    assert is_whole(tmp_path)


def test_a_server_that_sends_another_range_is_not_believed(server, tmp_path):
    server.plan = ["cut 100000", "wrong_range"]
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path) and server.ranges() == [None, "bytes=100000-", None]


def test_a_file_that_changed_meanwhile_is_never_spliced(server, tmp_path):
    server.plan = ["cut 100000", *["status 503"] * 3]
    with pytest.raises(Failure):
        get(server, tmp_path, size=None, sha256=None)
    server.data, server.tag = DATA[::-1], '"v2"'
    get(server, tmp_path, size=None, sha256=None)
    assert (tmp_path / "f.bin").read_bytes() == DATA[::-1]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_without_a_mark_of_the_version_and_without_a_checksum_it_starts_over(server, tmp_path, tag):
    server.tag = tag
    server.plan = ["cut 100000"]
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path) and server.ranges() == [None, None]


def test_without_a_mark_but_with_a_checksum_it_goes_on(server, tmp_path):
    server.tag = ""
    server.plan = ["cut 100000"]
    get(server, tmp_path)
    assert is_whole(tmp_path) and server.ranges() == [None, "bytes=100000-"]


def test_a_spoilt_part_is_thrown_away_and_fetched_anew(server, tmp_path):
    (tmp_path / "f.bin.part").write_bytes(bytes(100_000))
    get(server, tmp_path)
    assert is_whole(tmp_path) and server.ranges() == ["bytes=100000-", None]


@pytest.mark.parametrize("extra", [0, 1, 50_000])
def test_a_part_of_full_length_or_longer(server, tmp_path, extra):
    (tmp_path / "f.bin.part").write_bytes(DATA + bytes(extra))
    get(server, tmp_path)
    assert is_whole(tmp_path) and len(server.asked) == (1 if extra else 0)


def test_a_whole_part_of_unknown_length_is_found_whole_by_416(server, tmp_path):
    server.plan = ["cut 299999", *["status 500"] * 3]
    with pytest.raises(Failure):
        get(server, tmp_path, size=None, sha256=None)
    with open(tmp_path / "f.bin.part", "ab") as stream:
        stream.write(DATA[-1:])
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path) and server.ranges()[-1] == "bytes=300000-"


def test_416_for_a_part_that_is_too_long_starts_over(server, tmp_path):
    server.plan = ["cut 200000", *["status 500"] * 3]
    with pytest.raises(Failure):
        get(server, tmp_path, size=None, sha256=None)
    server.data = data = DATA[:150_000]
    get(server, tmp_path, size=None, sha256=None)
    assert (tmp_path / "f.bin").read_bytes() == data and server.ranges()[-2:] == ["bytes=200000-", None]


def test_wrong_bytes_never_get_the_final_name(server, tmp_path):
    server.plan = ["wrong_bytes"] * 9
    with pytest.raises(Failure, match="wrong file: sha256"):
        get(server, tmp_path)
    assert left(tmp_path) == []


@pytest.mark.parametrize("header", ["x-goog-hash", "x-ms-blob-content-md5", "Content-MD5"])
def test_what_the_store_says_of_the_content_is_checked(server, tmp_path, header):
    digest = base64.b64encode(hashlib.md5(DATA).digest()).decode()
    server.extra = {header: f"crc32c=AAAAAA==,md5={digest}" if header == "x-goog-hash" else digest}
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path)
    (tmp_path / "f.bin").unlink()
    server.plan = ["wrong_bytes"]
    with pytest.raises(Failure, match="damaged file: MD5"):
        get(server, tmp_path, size=None, sha256=None)
    assert left(tmp_path) == []


@pytest.mark.parametrize("lie", [1000, -1000])
def test_a_false_content_length_is_noticed_before_the_body(server, tmp_path, lie):
    server.plan = [f"lie {lie}"]
    with pytest.raises(Failure, match=f"has {300_000 + lie:,} bytes where 300,000 are expected"):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_a_content_length_that_is_never_reached_fails(server, tmp_path):
    server.tag = ""
    server.plan = ["lie 1000"] * 9
    with pytest.raises(Failure, match="4 tries"):
        get(server, tmp_path, size=None, sha256=None)
    assert not (tmp_path / "f.bin").exists()


def test_a_hung_server_is_left_and_gone_on_with(server, tmp_path, capsys):
    server.plan = ["hang"]
    started = time.monotonic()
    get(server, tmp_path)
    assert is_whole(tmp_path) and server.ranges()[1] == "bytes=50000-" and time.monotonic() - started < 5
    assert "no answer in time; try 2 of 4" in capsys.readouterr().err


def test_a_trickle_counts_as_a_stall(server, tmp_path, capsys):
    server.plan = ["trickle"]
    get(server, tmp_path)
    assert "stuck at 50,0" in capsys.readouterr().err and is_whole(tmp_path)


def test_passing_troubles_are_waited_out(server, tmp_path):
    server.plan = ["status 503", "status 429", "status 500"]
    get(server, tmp_path)
    assert is_whole(tmp_path) and len(server.asked) == 4


def test_the_server_may_say_how_long_to_wait(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setattr(
        Handler,
        "end_headers",
        lambda self: (self.send_header("Retry-After", "7"), BaseHTTPRequestHandler.end_headers(self)),
    )
    server.plan = ["status 503"]
    get(server, tmp_path, patience=Patience(wait=0.01))
    assert 7.0 in waits


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    server.plan = ["status 404"]
    with pytest.raises(Failure, match="status 404 Not Found"):
        get(server, tmp_path)
    assert len(server.asked) == 1 and left(tmp_path) == []


def test_the_next_mirror_is_tried_and_goes_on(server, tmp_path):
    other = Server()
    other.tag = '"another"'
    server.plan = ["cut 100000", *["status 503"] * 3]
    receipt = get(server, tmp_path, urls=[server.url + "/f.bin", other.url + "/g.bin"])
    other.over.set()
    other.shutdown()
    assert is_whole(tmp_path) and receipt.url == other.url + "/g.bin"
    assert other.ranges() == ["bytes=100000-"] and "If-Range" not in other.asked[0][1]


def test_a_mirror_without_the_file_costs_nothing_of_what_is_here(server, tmp_path):
    server.plan = ["cut 100000", *["status 503"] * 3, "status 404"]
    with pytest.raises(Failure) as caught:
        get(server, tmp_path, urls=[server.url + "/a", server.url + "/b"], size=None, sha256=None)
    assert "/a: status 503" in str(caught.value) and "/b: status 404" in str(caught.value)
    assert (tmp_path / "f.bin.part").read_bytes() == DATA[:100_000]


def test_redirects_are_followed(server, tmp_path):
    server.plan = ["redirect /elsewhere"]
    get(server, tmp_path)
    assert is_whole(tmp_path) and server.asked[1][0] == "/elsewhere"


def test_a_redirect_away_from_encryption_is_refused(server, tmp_path, monkeypatch):
    import requests

    real = requests.Session.get
    monkeypatch.setattr(requests.Session, "get", lambda self, url, **k: real(self, url.replace("https:", "http:"), **k))
    with pytest.raises(Failure, match="without encryption"):
        get(server, tmp_path, urls=[server.url.replace("http:", "https:") + "/f.bin"])


def test_compressed_answers_are_refused(server, tmp_path):
    server.extra = {"Content-Encoding": "gzip"}
    with pytest.raises(Failure, match="sends gzip"):
        get(server, tmp_path)


def test_no_length_at_all(server, tmp_path):
    server.plan = ["chunked 99"]
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path)


def test_a_chunked_answer_that_breaks_off_is_no_file(server, tmp_path):
    server.plan = ["chunked 2"]
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path) and server.ranges() == [None, "bytes=140000-"]


def test_more_than_expected_is_cut_off(server, tmp_path):
    server.data = DATA * 3
    server.plan = ["no_length"]
    with pytest.raises(Failure, match="more than the 300,000 bytes"):
        get(server, tmp_path)
    assert not (tmp_path / "f.bin").exists()


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/f", "file:///etc/passwd", "http://"])
def test_other_addresses_are_refused_at_once(server, tmp_path, url):
    with pytest.raises(Failure):
        get(server, tmp_path, urls=[url], patience=Patience(tries=1))
    assert left(tmp_path) == []


def test_nobody_listens(server, tmp_path):
    server.shutdown()
    server.server_close()
    with pytest.raises(Failure, match=r"f.bin: Failed to establish .* refused \(3 tries\)"):
        get(server, tmp_path)
    assert left(tmp_path) == []


def test_space_is_asked_for_as_soon_as_the_length_is_known(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda place: type("Usage", (), {"free": 1000})())
    with pytest.raises(Failure, match="not enough disk space for f.bin"):
        get(server, tmp_path)


def test_proxies_of_the_environment_are_used(server, tmp_path, monkeypatch):
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    get(server, tmp_path, urls=["http://models.example.org/f.bin"])
    assert server.asked[0][0] == "http://models.example.org/f.bin" and is_whole(tmp_path)


CHILD = """
import sys
from pathlib import Path
from tfgpt.weights.fetch import fetch
fetch([sys.argv[1]], Path(sys.argv[2]), label="f.bin")
"""


def start(server, folder):
    return subprocess.Popen([sys.executable, "-c", CHILD, server.url + "/f.bin", str(folder / "f.bin")])


def wait_for_part(folder):
    deadline = time.monotonic() + 20
    while not ((folder / "f.bin.part").exists() and (folder / "f.bin.part").stat().st_size > 40_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_in_the_middle_the_next_run_goes_on(server, tmp_path):
    server.plan = ["slow"]
    child = start(server, tmp_path)
    wait_for_part(tmp_path)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL and not (tmp_path / "f.bin").exists()
    have = (tmp_path / "f.bin.part").stat().st_size
    get(server, tmp_path, size=None, sha256=None)
    assert is_whole(tmp_path) and server.ranges()[1] == f"bytes={have}-"


def test_two_runs_do_not_write_into_one_part(server, tmp_path):
    server.plan = ["slow"]
    child = start(server, tmp_path)
    wait_for_part(tmp_path)
    with pytest.raises(Failure, match="another run"):
        get(server, tmp_path)
    assert child.wait(20) == 0
    assert is_whole(tmp_path)


def test_a_full_disk_is_a_clear_failure_and_can_go_on(server, tmp_path):
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (70000, 70000))\n" + CHILD
    arguments = [sys.executable, "-c", code, server.url + "/f.bin", str(tmp_path / "f.bin")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert "Failure: no room for f.bin" in done.stderr
    get(server, tmp_path)
    assert is_whole(tmp_path) and int(server.ranges()[1][6:-1]) > 0
