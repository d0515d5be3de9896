"""How a vLLM server is talked to when it fails, and which servers are refused. The server here is a scripted one."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from open_r1.inference.vllm_client import GENERATE_PATH, ServerClient
from open_r1.inference.vllm_engine import REQUIRED_OPTIONS, EngineError, EngineSettings
from open_r1.inference.vllm_server_checks import SHAPE_KEY, check_server, describe_shape


TIMEOUT_S = 0.5  # where the server does not recover
PATIENCE_S = 30.0  # where it does


class Scripted(BaseHTTPRequestHandler):
    """Answers by `answers[path]`: JSON, a status without content, or a function that returns either."""

    answers: dict[str, Any]
    peers: list[tuple[str, int]]  # who has called
    protocol_version = "HTTP/1.1"  # which keeps connections

    def do_GET(self) -> None:
        self.peers.append(self.client_address)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.answers.get(self.path.partition("?")[0], 404)
        answer = answer() if callable(answer) else answer
        content = b"" if isinstance(answer, int) else json.dumps(answer).encode()
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_POST = do_GET

    def log_message(self, *args: Any) -> None:
        """Nothing on the terminal."""


@pytest.fixture
def serve() -> Iterator[Callable[..., ServerClient]]:
    """Starts a server with these answers; returns a client of it."""
    servers = []

    def start(
        answers: dict[str, Any], timeout_s: float = PATIENCE_S, peers: list[tuple[str, int]] | None = None
    ) -> ServerClient:
        handler = type("Handler", (Scripted,), {"answers": answers, "peers": [] if peers is None else peers})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return ServerClient(f"http://127.0.0.1:{servers[-1].server_port}", timeout_s)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def in_turn(*answers: Any) -> Callable[[], Any]:
    """One answer after the other; the last one again and again."""
    left = list(answers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def sleep_long() -> int:
    time.sleep(2.5 * TIMEOUT_S)
    return 200


# ---- failures -----------------------------------------------------------------------------------------------------


def test_a_server_that_fails_for_a_moment_is_asked_again(serve):
    client = serve({"/weight_info": in_turn(500, 503, {"weight_version": "a:1"})})
    assert client.get_weight_version() == "a:1"


@pytest.mark.parametrize("answer", [500, sleep_long], ids=["fails", "is silent"])
def test_a_server_that_does_not_recover_is_an_error_in_time(serve, answer):
    client, started = serve({"/weight_info": answer}, TIMEOUT_S), time.monotonic()
    with pytest.raises(EngineError, match=rf"{client.address} fails for 0.5 s \(/weight_info"):
        client.get_weight_version()
    assert time.monotonic() - started < PATIENCE_S / 2


def test_what_may_not_be_done_twice_is_not_tried_again(serve):
    client = serve({"/update_weights": in_turn(500, {})})
    with pytest.raises(EngineError, match="/update_weights: 500"):
        client.update_weights({"names": []})
    client.update_weights({"names": []})


def test_each_call_has_a_connection_that_the_server_cannot_have_given_up(serve):
    peers: list[tuple[str, int]] = []
    client = serve({"/update_weights": {}}, peers=peers)
    for _ in range(3):
        client.update_weights({"names": []})
    assert len(set(peers)) == 3


def test_a_refused_request_is_an_error_at_once(serve):
    client, started = serve({"/weight_info": {}, GENERATE_PATH: 400}), time.monotonic()
    with pytest.raises(EngineError, match="refuses"):
        client.generate([{}])
    assert time.monotonic() - started < PATIENCE_S / 2


def test_completions_may_take_longer_than_the_timeout_while_the_engine_lives(serve):
    client = serve(
        {"/weight_info": {"weight_version": "a:1"}, GENERATE_PATH: lambda: {"status": sleep_long()}}, TIMEOUT_S
    )
    assert client.generate([{}, {}]) == [{"status": 200}] * 2


def test_completions_of_a_silent_engine_are_an_error_in_time(serve):
    client, started = serve({"/weight_info": sleep_long, GENERATE_PATH: sleep_long}, TIMEOUT_S), time.monotonic()
    with pytest.raises(EngineError, match="fails for 0.5 s"):
        client.generate([{}] * 3)
    assert time.monotonic() - started < PATIENCE_S / 2


def test_a_round_that_a_dead_run_left_open_is_ended(serve):
    client = serve({"/start_weight_update": in_turn(500, {}), "/finish_weight_update": {}})
    client.start_weight_update()


@pytest.mark.parametrize("address", ["localhost:8000", "ftp://host:21", "http://"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        ServerClient(address, TIMEOUT_S)


# ---- servers that cannot be used ----------------------------------------------------------------------------------


def answer_well(**changes: Any) -> dict[str, Any]:
    """The answers of a server that can be used; `changes` are those of its model's configuration."""
    model = {
        "model": "/models/tiny",
        "dtype": "torch.bfloat16",
        "logprobs_mode": "processed_logprobs",
        "max_model_len": 2048,
        "multimodal_config": dict(REQUIRED_OPTIONS),
        **changes,
    }
    config = {"model_config": model, "weight_transfer_config": {"backend": "nccl"}, "additional_config": {}}
    return {
        "/health": {},
        "/version": {"version": "0.32.0"},
        "/weight_info": {"weight_version": "default"},
        "/server_info": {"vllm_config": config},
        "/get_world_size": {"world_size": 2},
        GENERATE_PATH: 405,
    }


def test_a_server_as_it_should_be_is_taken(serve):
    info = check_server(serve(answer_well()), EngineSettings(model_path="/elsewhere/tiny", max_model_length=2048))
    assert (str(info.dtype), info.transfer, info.num_workers) == ("torch.bfloat16", "nccl", 2)
    client = serve(answer_well(logprobs_mode="raw_logprobs"))
    assert check_server(client, EngineSettings(model_path="tiny")).num_workers == 2


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"/version": {"version": "0.31.2"}}, "of version 0.31.2; this project works with >=0.32"),
        ({"/server_info": 404}, "VLLM_SERVER_DEV_MODE=1"),
        ({GENERATE_PATH: 404}, "--enable-scale-out"),
        ({"logprobs_mode": "raw_logprobs"}, "tells raw_logprobs, not processed_logprobs, which --temperature"),
        ({"logprobs_mode": "raw_logits"}, "tells raw_logits"),
        ({"max_model_len": 512}, "takes 512 tokens .*, not 600"),
        ({"multimodal_config": {"mm_device_do_normalize": True}}, "mm_device_do_normalize=True, not False"),
        ({"model": "/models/large"}, "has the model /models/large, not /models/tiny"),
        ({"backend": None}, "--weight-transfer-config"),
        ({"backend": "ipc"}, "takes weights by ipc, not by nccl or gloo"),
    ],
    ids=lambda value: next(iter(value)).strip("/") if isinstance(value, dict) else "",
)
def test_a_server_that_training_cannot_use_is_refused_with_what_it_lacks(serve, changes, problem):
    [(name, value)] = changes.items()
    answers = answer_well(**({} if name.startswith("/") or name == "backend" else changes))
    if name.startswith("/"):
        answers[name] = value
    if name == "backend":
        answers["/server_info"]["vllm_config"]["weight_transfer_config"] = value and {"backend": value}
    settings = EngineSettings(model_path="/models/tiny", scales_logps=True, max_model_length=600)
    with pytest.raises(ValueError, match=problem) as caught:
        check_server(serve(answers), settings)
    assert name == "/version" or "python -m open_r1.vllm_serve --model /models/tiny" in str(caught.value)


def test_a_model_of_another_shape_is_refused_by_the_number_that_differs(serve, tmp_path):
    config = {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    answers, shape = answer_well(), describe_shape(str(tmp_path), "main", trust_remote_code=False)
    assert shape["text_config.hidden_size"] == 64
    theirs = shape | {"text_config.hidden_size": 2048}
    answers["/server_info"]["vllm_config"]["additional_config"] = {SHAPE_KEY: theirs}
    with pytest.raises(ValueError, match="another model, /models/tiny: text_config.hidden_size is 2048, not 64 as in"):
        check_server(serve(answers), EngineSettings(model_path=str(tmp_path)))
    answers["/server_info"]["vllm_config"]["additional_config"] = {SHAPE_KEY: shape}
    check_server(serve(answers), EngineSettings(model_path=str(tmp_path)))
