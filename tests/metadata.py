"""The metadata service of an AWS instance, as far as it announces the instance's end."""

import http.server
import threading

NOTICE = '{"action": "terminate", "time": "2026-01-01T12:02:00Z"}'


class Metadata(http.server.ThreadingHTTPServer):
    """Answers at `url` until the context is left; announces an end once `ends` is set."""

    def __init__(self, address="127.0.0.1") -> None:
        super().__init__((address, 0), Answer)
        self.ends = False
        self.url = f"http://{address}:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()


class Answer(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        asked = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, "secret") if asked else self.answer(400, "")

    def do_GET(self):
        if self.headers["X-aws-ec2-metadata-token"] != "secret":
            self.answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.server.ends:
            self.answer(200, NOTICE)
        else:
            self.answer(404, "")

    def answer(self, code, text):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass
