"""A policy on a server of the Tinker API, and how each of its steps is applied once or not at all.

After each step, the state and its optimiser are saved on the server under a name that is used only once; only then does
the step count as taken. If a call is lost before, the model is loaded as it was before the step, the gradients of the
step are sent again, and the step is taken again. A read-only policy is a state that does not change.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import tarfile
import uuid
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig as PeftLoraConfig
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from magic_rl.engines.losses import weighted_loss
from magic_rl.engines.tinker.client import LostCallError
from magic_rl.engines.tinker.servers import payload
from magic_rl.errors import UserError
from magic_rl.rng import derive
from magic_rl.text.renderer import Arrived
from magic_rl.types import Adam, CrossEntropy, Datum, Loss, Sample, SamplingParams, Tokens

if TYPE_CHECKING:
    from magic_rl.engines.tinker.engine import TinkerEngine

FILE = "server_state.json"
_ADAPTER_FILE = "adapter_model.safetensors"
_KEPT = 8  # most states saved for checkpoints that are kept on the server for one policy

_log = logging.getLogger(__name__)

Work = tuple[Sequence[Datum], Loss]


@dataclass(frozen=True, slots=True)
class Origin:
    """What a policy's model is made from."""

    state: str | None = None  # the server's name of a saved state; None for an untrained adapter
    steps: int = 0  # optimiser steps taken so far
    optimiser: bool = False  # whether the optimiser's state is part of it
    seed: int = 0  # random seed of an untrained adapter


class TinkerPolicy:
    """An adapter on a server. Implements `engines.base.Policy`."""

    def __init__(self, name: str, engine: TinkerEngine, origin: Origin, *, trainable: bool = True) -> None:
        """Args: origin: What it starts from. trainable: If not, it is read-only."""
        self.name = name
        self._engine, self._origin, self._trainable = engine, origin, trainable
        self._pending: list[Work] = []  # gradients accumulated since the state of `_origin`
        self._kept: deque[str] = deque()
        self._pinned = {origin.state}  # states that other policies or folders rely on
        self._source: weakref.ref[TinkerPolicy] | None = None
        self._holds_gradients = False  # on the server, as far as known
        self._model: Any = None
        self._sampler: Any = None
        self._session = 0
        self._unload: weakref.finalize[..., TinkerPolicy] | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps taken."""
        return self._origin.steps

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `Policy.sample`. Each prompt is one request; each of its samples has its own random seed."""
        return self.stream(prompts, n, params, rng_seed, lambda _place, _samples: None)

    def stream(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        """See `StreamingPolicy.stream`."""
        persist = self._engine.connection.persist
        return persist(lambda: self._sample(prompts, n, params, rng_seed, arrived)) if prompts else []

    def _sample(
        self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int, arrived: Arrived
    ) -> list[list[Sample]]:
        connection, stops = self._engine.connection, self._engine.renderer.stop_ids
        sampler, sdk = self._speaking(), connection.sdk
        settings: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature}
        settings |= {"top_p": params.top_p, **({} if params.ignore_stop else {"stop": sorted(stops)})}
        asked = []
        for place, prompt in enumerate(prompts):
            # Servers add the sample's index to the seed.
            seeded = sdk.SamplingParams(**settings, seed=derive(rng_seed, place, "samples of a server") % 2**30)
            asked.append(sampler.sample(sdk.ModelInput.from_ints(list(prompt)), n, seeded))
        out = []
        for place, (prompt, future) in enumerate(zip(prompts, asked, strict=True)):
            out.append([self._read(prompt, sequence) for sequence in connection.run(future.result).sequences])
            arrived(place, out[-1])
        return out

    def _read(self, prompt: Tokens, sequence: Any) -> Sample:
        tokens, logprobs = tuple(sequence.tokens), tuple(sequence.logprobs or ())
        stopped = sequence.stop_reason == "stop"
        if len(logprobs) != len(tokens):
            raise UserError(
                f"{self._engine.connection.url}: gives {len(logprobs)} log-probabilities for {len(tokens)} ids"
            )
        if stopped and (not tokens or tokens[-1] not in self._engine.renderer.stop_ids):
            raise UserError(
                f"{self._engine.connection.url}: leaves out the id that ends a sample, so none would be learned"
            )
        return Sample(prompt, tokens, logprobs, "stop" if stopped else "length")

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """See `Policy.logprobs`."""
        work = ([Datum(prompt, tokens) for prompt, tokens in sequences], CrossEntropy())
        return self._engine.connection.persist(lambda: self._send(self._live(), work, 1, learn=False))

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> dict[str, float]:
        """See `Policy.forward_backward`. Metrics are means over tokens; `loss` is the weighted sum."""
        self._require_trainable()
        if not datums:
            return {"loss": 0.0}
        work: Work = (tuple(datums), loss)
        count = len(datums) + sum(len(earlier) for earlier, _ in self._pending)

        def attempt() -> list[tuple[float, ...]]:
            if self._pending and self._engine.connection.server.averages:
                self.give_way(gradients=True)  # it was weighted for fewer datums, so all of it is sent again
            return self._send(self._live(count), work, count)

        logprobs = self._engine.connection.persist(attempt)
        self._pending.append(work)
        # The metrics that the local engine would give for the same log-probabilities.
        return weighted_loss(loss, datums, torch.tensor([value for row in logprobs for value in row]))[1]

    def optim_step(self, adam: Adam) -> dict[str, float]:
        """See `Policy.optim_step`. `grad_norm` is missing if the server does not report it."""
        self._require_trainable()
        connection, norm = self._engine.connection, adam.max_grad_norm
        settings = {"beta1": adam.beta1, "beta2": adam.beta2, "eps": adam.eps, "weight_decay": adam.weight_decay}
        params = connection.sdk.AdamParams(learning_rate=adam.lr, grad_clip_norm=norm, **settings)

        def attempt() -> tuple[Any, str]:
            model = self._live()
            try:
                return connection.run(lambda: model.optim_step(params).result()), self._saved_as(model, self.steps + 1)
            except LostCallError:
                self.give_way(gradients=True)
                raise

        answer, state = connection.persist(attempt)
        before = self._origin.state
        self._origin = Origin(state, self.steps + 1, optimiser=True)
        self._pending, self._holds_gradients, self._sampler = [], False, None
        if before and before not in (*self._kept, *self._pinned):
            self._delete(before)
        metrics = getattr(answer, "metrics", None) or {}
        norms = [float(value) for name, value in metrics.items() if name.rpartition("/")[2] == "grad_norm"]
        return {"grad_norm": norms[0]} if norms else {}

    def save(self, directory: Path) -> None:
        """See `Policy.save`. A read-only policy also downloads its adapter, in PEFT's format."""
        state, engine = self._state(), self._engine
        if self._trainable and state not in self._kept:
            self._kept.append(state)
            if len(self._kept) > _KEPT and (oldest := self._kept.popleft()) not in self._pinned:
                self._delete(oldest)
        facts = {"server": engine.connection.url, "base_model": engine.base_model, "rank": engine.rank}
        facts |= {"state": state, "steps": self.steps, "optimiser": self._trainable and self._origin.optimiser}
        if not self._trainable:
            self._bring(directory)
        (directory / FILE).write_text(json.dumps(facts, indent=1), encoding="utf-8")

    def snapshot(self, name: str) -> TinkerPolicy:
        """See `Policy.snapshot`. It is a separate model: servers may answer for an earlier version with the latest."""
        state = self._state()
        self._pinned.add(state)
        copy = TinkerPolicy(name, self._engine, Origin(state, self.steps), trainable=False)
        copy._source = weakref.ref(self)
        return copy

    def give_way(self, *, gradients: bool = False) -> bool:
        """Free the policy's place on the server. Unsaved work is kept here and sent again on the next use.

        Args:
            gradients: Whether to do so even if there are gradients on the server.

        Returns:
            Whether a place was freed.
        """
        if self._model is None or (self._holds_gradients and not gradients):
            return False
        model, self._model, self._sampler = self._model, None, None
        if self._unload is not None:
            if self._holds_gradients:
                self._clear(model)
            self._unload()
        self._holds_gradients = False
        return True

    def _clear(self, model: Any) -> None:
        """Use up a model's gradients: SkyRL leaves them to the next model in the same place."""
        connection = self._engine.connection
        params = connection.sdk.AdamParams(learning_rate=0.0)
        with contextlib.suppress(LostCallError):  # if the server is lost, so are the gradients
            connection.run(lambda: model.optim_step(params).result(), limit=60.0)

    def _live(self, count: int | None = None) -> Any:
        """The model, made again with all pending gradients if it is gone. Args: count: Datums of the whole update."""
        engine, connection = self._engine, self._engine.connection
        self._renew()
        if self._model is not None:
            engine.used(self)
            return self._model
        model = self._model = engine.make(self, self._made)
        if connection.server.unloads:
            self._unload = weakref.finalize(self, _unload, connection, model.model_id)
        try:
            for work in self._pending:
                self._send(model, work, count or sum(len(datums) for datums, _ in self._pending))
        except LostCallError:
            self.give_way(gradients=True)
            raise
        return model

    def _renew(self) -> None:
        """Forget what belonged to an earlier session."""
        session = self._engine.connection.session
        if self._session != session:
            self.give_way(gradients=True)
            self._sampler, self._session = None, session

    def _made(self, service: Any) -> Any:
        origin, engine = self._origin, self._engine
        if origin.state is None:
            shape = {"rank": engine.rank, "seed": origin.seed}
            return service.create_lora_training_client(engine.base_model, train_unembed=False, **shape)
        if origin.optimiser and self._trainable:
            return service.create_training_client_from_state_with_optimizer(origin.state)
        return service.create_training_client_from_state(origin.state)

    def _speaking(self) -> Any:
        """A client that samples from the current weights."""
        connection, base = self._engine.connection, not self._trainable and self._origin.state is None
        if base:
            self._renew()
            if self._sampler is None:
                name = self._engine.base_model
                self._sampler = connection.run(lambda: connection.service.create_sampling_client(base_model=name))
            return self._sampler
        model = self._live()
        if self._sampler is None:
            self._sampler = connection.run(model.save_weights_and_get_sampling_client)
        return self._sampler

    def _send(self, model: Any, work: Work, count: int, *, learn: bool = True) -> list[tuple[float, ...]]:
        """Log-probabilities of the datums' tokens, requested in parts; with `learn`, the gradient is added too."""
        datums, loss = work
        connection, sdk = self._engine.connection, self._engine.connection.sdk
        asked = []
        for part in _split(datums, self._engine.tokens_per_batch):
            sent = [payload(datum, loss, connection.server, count) for datum in part]
            data = [
                sdk.Datum(model_input=sdk.ModelInput.from_ints(each.inputs), loss_fn_inputs=each.tensors)
                for each in sent
            ]
            call = model.forward_backward if learn else model.forward
            asked.append(call(data, sent[0].loss, sent[0].config))
        self._holds_gradients |= learn
        answers = connection.run(lambda: [each.result() for each in asked])
        outputs = [output["logprobs"] for answer in answers for output in answer.loss_fn_outputs]
        return [tuple(output.tolist()[-len(datum.tokens) :]) for datum, output in zip(datums, outputs, strict=True)]

    def _saved_as(self, model: Any, steps: int) -> str:
        name = f"{self.name}-{steps:06d}-{uuid.uuid4().hex[:8]}"
        path: str = self._engine.connection.run(lambda: model.save_state(name).result()).path
        return path

    def _state(self) -> str:
        """The server's name of the policy's state, which is saved first if it never was."""
        if self._origin.state is None:
            state = self._engine.connection.persist(lambda: self._saved_as(self._live(), 0))
            self._origin = Origin(state, 0, optimiser=True)
            return state
        return self._origin.state

    def _delete(self, state: str) -> None:
        connection = self._engine.connection

        def call() -> None:
            connection.service.create_rest_client().delete_checkpoint_from_tinker_path(state).result()

        try:
            connection.run(call)
        except LostCallError as error:  # not every server can delete
            _log.debug("%s stays on the server: %s", state, error)

    def _bring(self, directory: Path) -> None:
        """Write the adapter into a folder; without it, the policy can be used only on this server."""
        source = self._source() if self._source else None
        source = source if source and source._origin.state == self._origin.state else self
        connection, name = self._engine.connection, f"{self.name}-{uuid.uuid4().hex[:8]}"

        def attempt() -> bytes:
            model = source._live()
            path = connection.run(lambda: model.save_weights_for_sampler(name).result()).path
            rest = connection.run(connection.service.create_rest_client)
            if "/sampler_weights/" in path:
                answer = connection.run(lambda: rest.get_checkpoint_archive_url_from_tinker_path(path).result())
            else:  # SkyRL names these weights in its own way
                answer = connection.run(lambda: rest.get_checkpoint_archive_url(model.model_id, name).result())
            return connection.fetch(answer.url)

        try:
            with tarfile.open(fileobj=io.BytesIO(connection.persist(attempt))) as archive:
                names = (each for each in archive.getnames() if each.endswith(_ADAPTER_FILE))
                tensors = next(load(file.read()) for each in names if (file := archive.extractfile(each)))
        except (StopIteration, tarfile.TarError, SafetensorError) as error:
            raise UserError(f"{connection.url}: what it sent of {self.name} holds no {_ADAPTER_FILE}") from error
        save_file(tensors, directory / _ADAPTER_FILE)
        layers = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in tensors})
        settings = {"r": self._engine.rank, "lora_alpha": self._engine.alpha, "target_modules": layers}
        PeftLoraConfig(task_type="CAUSAL_LM", **settings).save_pretrained(str(directory))

    def _require_trainable(self) -> None:
        if not self._trainable:
            raise RuntimeError(f"policy {self.name!r} is read-only")


def _unload(connection: Any, model_id: str) -> None:
    connection.post("/api/v1/unload_model", {"model_id": model_id, "type": "unload_model"})


def _split(datums: Sequence[Datum], tokens: int) -> Iterator[Sequence[Datum]]:
    """Parts of at most so many tokens, or of a single datum."""
    part: list[Datum] = []
    size = 0
    for datum in datums:
        length = len(datum.prompt) + len(datum.tokens)
        if part and size + length > tokens:
            yield part
            part, size = [], 0
        part.append(datum)
        size += length
    if part:
        yield part
