"""A judge on loopback: a real HTTP server that does as it is told, well or badly."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


HANG_S = 3.0
LIES = {  # what a model says when it does not say what it was asked for
    "nonsense": "The answer is splendid!",
    "score 99": '{"score": 99}',
    "not JSON": "{'score': 1,}",
    "two verdicts": '{"score": 1, "correct": false}',
    "a string": '{"score": "1"}',
}


class JudgeServer(ThreadingHTTPServer):
    """Answers chat completions. Example: `with JudgeServer() as server: JudgeSettings(base_url=server.url, ...)`."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = "answer"
        self.requests: list[dict] = []
        self.num_open = self.most_open = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self) -> "JudgeServer":
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.requests.append(request | {"path": self.path, "key": self.headers["Authorization"]})
            server.num_open += 1
            server.most_open = max(server.most_open, server.num_open)
        try:
            self.answer(server.behaviour, request)
        except (BrokenPipeError, ConnectionResetError):  # the client lost patience
            self.close_connection = True
        finally:
            with server.lock:
                server.num_open -= 1

    def answer(self, behaviour: str, request: dict) -> None:
        if behaviour == "hang":
            time.sleep(HANG_S)
        if behaviour == "slow":
            time.sleep(0.05)
        if behaviour == "error":
            return self.send(500, '{"error": {"message": "out of memory"}}')
        if behaviour == "no body":
            return self.send(200, "<html>", "text/html")
        if behaviour in LIES:
            return self.send(200, json.dumps({"choices": [{"message": {"content": LIES[behaviour]}}]}))
        data = json.loads(request["messages"][-1]["content"])
        score = float(data["candidate_answer"] == data["reference_answer"])
        form = next(iter(request["response_format"]["json_schema"]["schema"]["properties"]))
        reply = json.dumps({form: bool(score) if form == "correct" else score})
        return self.send(200, json.dumps({"choices": [{"message": {"content": reply}}]}))

    def send(self, status: int, body: str, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_) -> None:
        """Says nothing."""
