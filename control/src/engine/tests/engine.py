"""A vLLM as small as it gets, with a worker process in its group and its memory on the simulated GPU.

usage: PORT FOLDER [--enable-server-load-tracking]; the environment switches what is unusual:
  LEAK    a sleep frees nothing              THIN  a wake brings back half of it
  DEAF    its port is closed by a sleep      LOAD  what /load says
  PEAK    GiB while it sleeps or wakes       COPY  MiB that a sleep at level 1 really takes of host RAM, and a wake keeps
  WEIGHTS file that says whether the weights mean something
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

port, folder = int(sys.argv[1]), sys.argv[2]
switch = os.environ.get
subprocess.Popen(["sleep", "1000"])
asleep, level, copy = False, 0, None


def hold(gib):
    start = int(open("/proc/self/stat").read().rsplit(")", 1)[1].split()[19])
    os.makedirs(folder, exist_ok=True)
    name = f"{folder}/{os.getpid()}.json"
    with open(f"{name}.new", "w") as file:
        json.dump({"pid": os.getpid(), "start": start, "gpu": 0, "bytes": gib << 30}, file)
    os.rename(f"{name}.new", name)


def pass_through(gib):
    """The worst moment of a sleep or a wake, long enough to be seen."""
    if switch("PEAK"):
        hold(int(switch("PEAK")))
        time.sleep(0.3)
    hold(gib)


def weights(word):
    if switch("WEIGHTS"):
        with open(switch("WEIGHTS"), "w") as file:
            file.write(word)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0" if switch("DEAF") else "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, body, status=200):
        body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        answers = {
            "/version": {"version": "0.33.0"},
            "/is_sleeping": {"is_sleeping": asleep},
            "/is_paused": {"is_paused": asleep},
            "/load": {"server_load": int(switch("LOAD") or 0)},
            "/v1/models": {"data": [{"id": "tiny", "created": 1}]},
        }
        self.reply(answers.get(self.path, {}), 405 if self.path == "/collective_rpc" else 200)

    def do_POST(self):
        global asleep, level, copy
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if switch("DEAF") and self.path.startswith("/sleep"):
            threading.Thread(target=lambda: (server.shutdown(), server.server_close())).start()
            time.sleep(1)
            os.close(self.connection.detach())
        elif self.path.startswith("/sleep"):
            level = 2 if "level=2" in self.path else 1
            if level == 1 and switch("COPY") and copy is None:
                copy = b"x" * (int(switch("COPY")) << 20)
            if level == 2:
                weights("gone")
            pass_through(16 if switch("LEAK") else 1)
            asleep = True
            self.reply({"status": "sleeping", "level": level})
        elif self.path == "/wake_up?tags=weights":
            pass_through(16)
            self.reply({"status": "sleeping"})
        elif self.path == "/collective_rpc":
            weights("there")
            self.reply({"results": [None]})
        elif self.path.startswith("/wake_up"):
            pass_through(8 if switch("THIN") else 16)
            asleep = False
            self.reply({"status": "awake"})
        else:
            self.reply({"choices": [{"text": "a", "finish_reason": "length"}]})


hold(16)
print("serving", flush=True)
server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
server.daemon_threads = True
server.block_on_close = False
server.serve_forever()
time.sleep(1000)
