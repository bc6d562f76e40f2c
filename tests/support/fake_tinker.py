"""A server of the Tinker API in this process, with tiny real models and real HTTP, that can be made flawed or killed.

It answers as SkyRL 0.3 does. When it is killed it loses sessions, models and futures, as real servers do; saved states
remain.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, Self

from magic_rl.engines.local.engine import LocalEngine
from magic_rl.engines.local.policy import OPTIMISER_FILE, LocalPolicy
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.types import PPO, Adam, Datum, ImportanceSampling, SamplingParams

Flaw = Literal["base for every adapter", "latest for a snapshot", "drops gradients", "steps of size 0 step"]
Moment = tuple[
    str, Literal["before", "after", "fetched"]
]  # kind of request, and when: before or after the work, or when the result is fetched


class KilledError(Exception):
    """The process is gone, with the connection."""


class FakeTinker:
    """The server; it serves while used as a context manager.

    Attributes:
        kill_at: When to die, once.
        kill_after: Kind and number of the request after whose work it dies.
        down: Seconds that it then stays down.
        fail: By kind of request, a status and how many of the next requests get it.
        asked: The kind of every request.
        places: How many models it can hold at a time.
    """

    def __init__(self, model: Path, *, flaw: Flaw | None = None, averages: bool = False, places: int = 32) -> None:
        config = EngineConfig(device="cpu", dtype="float32", threads=1)
        self.engine = LocalEngine(model, LoraConfig(rank=4), config)
        self.name, self.flaw, self.averages, self.places = str(model), flaw, averages, places
        self.kill_at: Moment | None = None
        self.kill_after = ("", 0)
        self.down = 0.2
        self.fail: dict[str, tuple[int, int]] = {}
        self.asked: list[str] = []
        self._folder = tempfile.TemporaryDirectory()
        self._states: dict[str, tuple[Path, LocalPolicy]] = {}
        self._down_until, self._number = 0.0, 0
        self._lock = threading.RLock()
        self._forget()
        handler = type("Handler", (_Handler,), {"fake": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._folder.cleanup()

    def _forget(self) -> None:
        self.sessions: set[str] = set()
        self.models: dict[str, LocalPolicy] = {}
        self._counts: dict[str, int] = {}
        self._futures: dict[str, tuple[str, dict[str, Any]]] = {}
        self._samplers: dict[str, LocalPolicy] = {}
        self._archives: dict[str, LocalPolicy] = {}
        self._left: tuple[list[Any], int] | None = None  # gradients of a model that was unloaded, and their number

    def _new(self, kind: str) -> str:
        self._number += 1
        return f"{kind}-{self._number}"

    def _die_at(self, kind: str, when: str) -> None:
        if (kind, when) == self.kill_at:
            self.kill_at = None
            self.kill()
            raise KilledError

    def kill(self) -> None:
        """Die, and be up again after `down` seconds."""
        self._down_until = time.monotonic() + self.down
        self._forget()

    def start_again(self) -> None:
        """Be up again at once."""
        self._down_until = 0.0

    def answer(self, kind: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and body for one request."""
        with self._lock:
            if time.monotonic() < self._down_until:
                raise KilledError
            self.asked.append(kind)
            status, left = self.fail.get(kind, (0, 0))
            if left:
                self.fail[kind] = (status, left - 1)
                return status, {"detail": "out of order"}
            if kind == "retrieve_future":
                if body["request_id"] not in self._futures:
                    return 404, {"detail": "Future not found"}
                of, result = self._futures[body["request_id"]]
                self._die_at(of, "fetched")
                return 200, result
            if plain := getattr(self, f"_{kind}", None):
                answered: tuple[int, Any] = plain(body)
                return answered
            if "model_id" in body and body["model_id"] not in self.models:
                return 404, {"detail": "Model not found"}
            self._die_at(kind, "before")
            if kind == self.kill_after[0]:
                self.kill_after = kind, self.kill_after[1] - 1
                self.kill_at = self.kill_at if self.kill_after[1] else (kind, "after")
            try:
                result = getattr(self, f"do_{kind}")(body)
            except (ValueError, KeyError) as error:
                result = {"error": str(error), "category": "user"}
            self._die_at(kind, "after")
            number = self._new("future")
            self._futures[number] = (kind, result)
            return 200, {"request_id": number, **({"model_id": result["model_id"]} if "model_id" in result else {})}

    # Answered at once

    def _create_session(self, body: dict[str, Any]) -> tuple[int, Any]:
        self.sessions.add(name := self._new("session"))
        return 200, {"type": "create_session", "session_id": name}

    def _session_heartbeat(self, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, {"type": "session_heartbeat"}) if body["session_id"] in self.sessions else (404, {})

    def _get_server_capabilities(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"supported_models": [{"model_name": self.name}]}

    def _weights_info(self, body: dict[str, Any]) -> tuple[int, Any]:
        known = body["tinker_path"] in self._states
        return (200, {"base_model": self.name, "is_lora": True, "lora_rank": 4}) if known else (404, {"detail": "none"})

    def _create_sampling_session(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["session_id"] not in self.sessions:
            return 404, {"detail": "Session not found"}
        self._samplers[name := self._new("sampler")] = self.engine.base()
        return 200, {"type": "create_sampling_session", "sampling_session_id": name}

    def _unload_model(self, body: dict[str, Any]) -> tuple[int, Any]:
        gone = self.models.pop(body["model_id"], None)
        if gone is not None and self.averages:  # as SkyRL does
            self._left = _gradients(gone), self._counts.pop(body["model_id"], 0)
        return 200, {}

    def _healthz(self, body: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"status": "ok"}

    # Answered by a future

    def do_create_model(self, body: dict[str, Any]) -> dict[str, Any]:
        if len(self.models) >= self.places:
            raise ValueError(f"Maximum number of LoRA adapters ({self.places}) reached")
        if body["lora_config"]["rank"] != 4:
            raise ValueError("only rank 4")
        policy = self.models[name := self._new("model")] = self.engine.new_policy(str(body["lora_config"].get("seed")))
        if self._left:
            gradients, self._counts[name] = self._left
            _give(policy, gradients)
            self._left = None
        return {"type": "create_model", "model_id": name}

    def do_load_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        folder, source = self._states[body["path"]]
        if self.flaw == "latest for a snapshot" and not body["optimizer"]:
            self.models[body["model_id"]] = source
            return {"type": "load_weights"}
        policy = self.engine.load(folder, "loaded")
        if not body["optimizer"] and policy._optimiser:
            policy._optimiser.state.clear()
        _give(policy, _gradients(self.models[body["model_id"]]))
        self.models[body["model_id"]] = policy
        return {"type": "load_weights"}

    def do_save_weights(self, body: dict[str, Any]) -> dict[str, Any]:
        path = f"tinker://{body['model_id']}/weights/{body['path']}"
        folder = Path(self._folder.name) / self._new("state")
        folder.mkdir()
        self.models[body["model_id"]].save(folder)
        self._states[path] = (folder, self.models[body["model_id"]])
        return {"type": "save_weights", "path": path}

    def do_save_weights_for_sampler(self, body: dict[str, Any]) -> dict[str, Any]:
        policy = self.models[body["model_id"]]
        if body.get("path"):
            self._archives[body["path"]] = policy.snapshot("archive")
            return {"type": "save_weights_for_sampler", "path": f"tinker://{body['model_id']}/{body['path']}"}
        self._samplers[name := self._new("sampler")] = policy.snapshot("sampler")
        if self.flaw == "latest for a snapshot":
            self._samplers[name] = policy
        return {"type": "save_weights_for_sampler", "path": None, "sampling_session_id": name}

    def do_asample(self, body: dict[str, Any]) -> dict[str, Any]:
        asked, policy = body["sampling_params"], self._samplers[body["sampling_session_id"]]
        policy = self.engine.base() if self.flaw == "base for every adapter" else policy
        stop = bool(asked.get("stop"))
        params = SamplingParams(asked["max_tokens"], asked["temperature"], asked["top_p"], ignore_stop=not stop)
        (row,) = policy.sample([_ids(body["prompt"])], body["num_samples"], params, asked["seed"])
        found = [{"stop_reason": s.finish, "tokens": s.tokens, "logprobs": s.logprobs} for s in row]
        return {"type": "sample", "sequences": found}

    def do_forward(self, body: dict[str, Any]) -> dict[str, Any]:
        datums = [_datum(each) for each in body["forward_input"]["data"]]
        return self._outputs(self.models[body["model_id"]], datums)

    def _outputs(self, policy: LocalPolicy, datums: list[Datum]) -> dict[str, Any]:
        rows = policy.logprobs([(datum.prompt, datum.tokens) for datum in datums])
        outputs = [{"logprobs": {"data": row, "dtype": "float32", "shape": [len(row)]}} for row in rows]
        return {"loss_fn_output_type": "scalar", "loss_fn_outputs": outputs, "metrics": {}}

    def do_forward_backward(self, body: dict[str, Any]) -> dict[str, Any]:
        sent, name = body["forward_backward_input"], body["model_id"]
        policy, datums = self.models[name], [_datum(each) for each in sent["data"]]
        outputs = self._outputs(policy, datums)
        now = [tuple(output["logprobs"]["data"]) for output in outputs["loss_fn_outputs"]]
        loss: PPO | ImportanceSampling = ImportanceSampling()
        if sent["loss_fn"] == "ppo":
            limits = sent["loss_fn_config"]
            loss = PPO(1 - limits["clip_low_threshold"], limits["clip_high_threshold"] - 1)
        elif sent["loss_fn"] in ("cross_entropy", "cispo"):  # CISPO as it is sent here has a ratio of 1
            datums = [_like(datum, row) for datum, row in zip(datums, now, strict=True)]
        if self.averages:
            datums = [_like(datum, datum.logprobs, 1 / len(datum.tokens)) for datum in datums]
        if self.flaw == "drops gradients" and policy._optimiser:
            policy._optimiser.zero_grad()
        self._counts[name] = self._counts.get(name, 0) + len(datums)
        policy.forward_backward(datums, loss)
        return outputs

    def do_optim_step(self, body: dict[str, Any]) -> dict[str, Any]:
        sent, policy = body["adam_params"], self.models[body["model_id"]]
        count = self._counts.pop(body["model_id"], 0) or 1
        for parameter in policy._parameters.values():
            if self.averages and parameter.grad is not None:
                parameter.grad /= count
        clip = float("inf") if self.averages else sent["grad_clip_norm"]
        rate = sent["learning_rate"] or (1e-2 if self.flaw == "steps of size 0 step" else 0.0)
        adam = Adam(rate, sent["beta1"], sent["beta2"], sent["eps"], sent["weight_decay"], clip)
        return {"type": "optim_step", "metrics": {"skyrl.ai/grad_norm": policy.optim_step(adam)["grad_norm"]}}

    def archive(self, name: str, file: Any) -> None:
        """Write the adapter that was saved under a name to a file, as a tar archive."""
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=file, mode="w|gz") as out:
            self._archives[name].save(Path(folder))
            out.add(folder, arcname=".")

    def delete(self, run: str, name: str) -> bool:
        """Delete a saved state, and return whether it existed."""
        self.asked.append("delete")
        return self._states.pop(f"tinker://{run}/weights/{name}", None) is not None

    def steps(self, path: str) -> int:
        """Steps that a saved state has taken, according to its optimiser."""
        from safetensors.torch import load_file

        file = self._states[path][0] / OPTIMISER_FILE
        counts = (
            {int(value) for key, value in load_file(file).items() if key.endswith(":step")} if file.exists() else {0}
        )
        (count,) = counts
        return count


class _Handler(BaseHTTPRequestHandler):
    """Turns HTTP requests into calls of the server."""

    fake: FakeTinker
    protocol_version = "HTTP/1.1"

    def _handle(self, act: Callable[[], tuple[int, Any]]) -> None:
        try:
            status, answer = act()
        except KilledError:
            self.close_connection = True
            self.connection.close()
            return
        body = json.dumps(answer).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", answer)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        kind = self.path.partition("/api/v1/")[2]
        if kind in ("client/config", "telemetry"):
            return self._handle(lambda: (200, {"pjwt_auth_enabled": False, "status": "accepted"}))
        return self._handle(lambda: self.fake.answer(kind, body))

    def do_GET(self) -> None:
        if self.path.endswith("/archive"):
            name = self.path.split("/")[-2]
            return self._handle(lambda: (302, f"{self.fake.url}/download/{name}"))
        if self.path.startswith("/download/"):
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.fake.archive(self.path.rpartition("/")[2], self.wfile)
            self.close_connection = True
            return None
        return self._handle(lambda: self.fake.answer(self.path.partition("/api/v1/")[2], {}))

    def do_DELETE(self) -> None:
        parts = self.path.split("/")
        self._handle(lambda: (204 if self.fake.delete(parts[-4], parts[-1]) else 404, {}))

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _gradients(policy: LocalPolicy) -> list[Any]:
    return [parameter.grad for parameter in policy._parameters.values()]


def _give(policy: LocalPolicy, gradients: list[Any]) -> None:
    for parameter, gradient in zip(policy._parameters.values(), gradients, strict=True):
        parameter.grad = gradient


def _ids(prompt: dict[str, Any]) -> tuple[int, ...]:
    return tuple(token for chunk in prompt["chunks"] for token in chunk["tokens"])


def _datum(sent: dict[str, Any]) -> Datum:
    """A datum in which every target is a token to learn, as a server sees it."""
    tensors = {name: tuple(tensor["data"]) for name, tensor in sent["loss_fn_inputs"].items()}
    weights = tensors.get("weights") or tensors["advantages"]
    targets = tensors["target_tokens"]
    return Datum(_ids(sent["model_input"])[:1], targets, 1.0, weights, tensors.get("logprobs", ()))


def _like(datum: Datum, logprobs: tuple[float, ...], weight: float = 1.0) -> Datum:
    return Datum(datum.prompt, datum.tokens, weight, datum.advantages, logprobs)
