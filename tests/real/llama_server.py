"""Serves one GGUF model with llama.cpp: `python -m tests.real.llama_server MODEL PORT ALIAS`; port 0 takes a free one.

Prints `listening on http://HOST:PORT` when the model is loaded, and serves until its standard input ends, so that it
never outlives the test run that holds the other end of that pipe. Answers repeat exactly for equal requests made one
at a time: there is one compute thread, and no prompt cache, whose hits would change the shape of a batch and with it
the last bits of a logit.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import xllamacpp

from tests.real import SLOT_CONTEXT_TOKENS, SLOTS


def serve(model: Path, port: int, alias: str) -> None:
    """Serve `model` on 127.0.0.1 under the name `alias` until standard input ends."""
    server = xllamacpp.Server(_parameters(model, port, alias))
    print(f"listening on {server.listening_address}", flush=True)
    sys.stdin.buffer.read()
    # llama.cpp's own shutdown waits for its open streams; the process ends here instead, and its sockets with it.
    os._exit(0)


def _parameters(model: Path, port: int, alias: str) -> xllamacpp.CommonParams:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(model)
    parameters.model_alias = {alias}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.n_threads_http = 64  # An idle kept-alive connection holds one of them for 5 s.
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_CONTEXT_TOKENS
    parameters.ctx_shift = True  # A generation asked for without end has none, so it ends only by being cancelled.
    parameters.cache_prompt = False
    parameters.endpoint_slots = True  # `GET /slots` tells which slots are generating.
    parameters.use_jinja = True  # Tool calls need the model's own chat template.
    parameters.warmup = False
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    return parameters


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
