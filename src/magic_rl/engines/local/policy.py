"""A LoRA policy of the local engine: sampling, scoring, gradients, optimiser, files."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from magic_rl.engines.local.packing import Pack, pack, padded
from magic_rl.engines.local.sampling import Sampler
from magic_rl.engines.local.scoring import packed_logprobs, plain_logprobs, recomputing, scales_with_length
from magic_rl.engines.local.workers import cut, dealt
from magic_rl.engines.losses import take_step, weighted_loss
from magic_rl.rng import uniforms
from magic_rl.types import Adam, Datum, Loss, Sample, SamplingParams, Tokens

if TYPE_CHECKING:
    from magic_rl.engines.local.engine import LocalEngine

ADAPTER_FILE = "adapter_model.safetensors"
OPTIMISER_FILE = "optimizer.safetensors"
_T = TypeVar("_T")
_UNLEARNED = 8  # times as many tokens fit into memory in a pass without gradients


class LocalPolicy:
    """A set of adapter parameters with its optimiser. Implements `engines.base.Policy`.

    Without an optimiser it is read-only: an opponent, a reference, a checkpoint under evaluation.
    """

    def __init__(
        self, name: str, engine: LocalEngine, parameters: dict[str, nn.Parameter], *, trainable: bool = True
    ) -> None:
        """Args: parameters: Adapter tensors by full name; none for the base model itself."""
        self.name = name
        self._engine = engine
        self._parameters = parameters
        self._optimiser = torch.optim.AdamW(parameters.values()) if trainable else None

    def sample(self, prompts: Sequence[Tokens], n: int, params: SamplingParams, rng_seed: int) -> list[list[Sample]]:
        """See `Policy.sample`."""
        if not prompts:  # every attack of a step may have been cut off, so that none is left to answer
            return []
        draws = uniforms(rng_seed, len(prompts) * n, params.max_tokens).reshape(len(prompts), n, -1)
        shares = dealt(prompts, self._engine.processes)
        tasks = [([prompts[i] for i in share], params, draws[share], len(prompts) * n) for share in shares]
        return _in_place(shares, self._together(LocalPolicy._sample, tasks))

    def _sample(
        self, prompts: Sequence[Tokens], params: SamplingParams, draws: np.ndarray, samples: int
    ) -> list[list[Sample]]:
        """Sample a share. Args: samples: Number drawn in all processes."""
        with self._engine.speaking(self._parameters) as model:
            stops = frozenset[int]() if params.ignore_stop else self._engine.renderer.stop_ids
            rows, tokens = self._engine.config.rows_per_batch, _UNLEARNED * self._engine.tokens_per_batch
            sampler = Sampler(model, self._engine.path, stops, rows, tokens, samples)
            return sampler.sample(prompts, params, draws)

    @property
    def vocabulary(self) -> int:
        """Number of ids that the model has outputs for."""
        return int(self._engine.model.config.get_text_config().vocab_size)

    def logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        """See `Policy.logprobs`."""
        shares = cut(sequences, self._engine.processes)
        found = self._together(LocalPolicy._logprobs, [([sequences[i] for i in share],) for share in shares])
        return _in_place(shares, found)

    def _logprobs(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> list[tuple[float, ...]]:
        out: list[tuple[float, ...]] = [()] * len(sequences)
        with torch.inference_mode(), self._rows(sequences) as rows:
            for row, flat in rows:
                for index, part in zip(row.sequences, torch.split(flat.cpu(), row.lengths), strict=True):
                    out[index] = tuple(part.tolist())
        return out

    def forward_backward(self, datums: Sequence[Datum], loss: Loss) -> dict[str, float]:
        """See `Policy.forward_backward`. Metrics are means over tokens; `loss` is the weighted sum."""
        self._require_optimiser()
        shares = cut([(datum.prompt, datum.tokens) for datum in datums], self._engine.processes)
        sums: defaultdict[str, float] = defaultdict(float)
        for part in self._together(LocalPolicy._learn, [([datums[i] for i in share], loss) for share in shares]):
            for key, value in part.items():
                sums[key] += value
        tokens = sum(len(datum.tokens) for datum in datums)
        return {key: value if key == "loss" else value / tokens for key, value in sums.items()}

    def _learn(self, datums: Sequence[Datum], loss: Loss) -> dict[str, float]:
        """Add the gradient. Returns: The loss, and sums of metrics over tokens."""
        sums: defaultdict[str, float] = defaultdict(float)
        with self._rows([(datum.prompt, datum.tokens) for datum in datums]) as rows:
            for row, logprobs in rows:
                chosen = [datums[index] for index in row.sequences]
                total, metrics = weighted_loss(loss, chosen, logprobs)
                torch.autograd.backward(total)
                sums["loss"] += metrics.pop("loss")
                for key, value in metrics.items():
                    sums[key] += value * len(row.targets)
        return dict(sums)

    def optim_step(self, adam: Adam) -> dict[str, float]:
        """See `Policy.optim_step`."""
        return take_step(self._require_optimiser(), self._parameters.values(), adam)

    def save(self, directory: Path) -> None:
        """See `Policy.save`. The folder is also a PEFT adapter that `PeftModel.from_pretrained` loads."""
        save_file(self._engine.saved_names(self._parameters), directory / ADAPTER_FILE)
        self._engine.peft_config.save_pretrained(str(directory))
        state = {
            f"{key}:{field}": torch.as_tensor(value).detach().cpu()
            for key, parameter in self._parameters.items()
            for field, value in (self._optimiser.state[parameter] if self._optimiser else {}).items()
        }
        if state:
            save_file(state, directory / OPTIMISER_FILE)

    def load_optimiser(self, path: Path) -> None:
        """Restore the optimiser state that `save` wrote."""
        optimiser = self._require_optimiser()
        state: dict[str, dict[str, Tensor]] = {}
        for name, tensor in load_file(path).items():
            key, _, field = name.rpartition(":")
            # torch keeps the step count on the CPU, wherever the parameters are.
            state.setdefault(key, {})[field] = tensor if field == "step" else tensor.to(self._engine.device)
        for key, fields in state.items():
            optimiser.state[self._parameters[key]] = fields

    def snapshot(self, name: str) -> LocalPolicy:
        """See `Policy.snapshot`."""
        copies = {key: nn.Parameter(p.detach().clone(), requires_grad=False) for key, p in self._parameters.items()}
        return LocalPolicy(name, self._engine, copies, trainable=False)

    def _together(self, work: Callable[..., _T], shares: Sequence[tuple[Any, ...]]) -> list[_T]:
        """The results of all shares of some work. The first is computed here, the others by the engine's workers."""
        given = None
        if self._parameters and len(shares) > 1:
            given = parameters_to_vector(self._parameters.values()).detach().numpy()
        answers = self._engine.workers.give([(work, given, share) for share in shares[1:]])
        with self._engine.computing(len(shares)):
            found = [work(self, *share) for share in shares[:1]]
        for result, gradient in answers():
            found.append(result)
            for key, part in gradient.items():
                added, parameter = torch.from_numpy(part), self._parameters[key]
                parameter.grad = added if parameter.grad is None else parameter.grad + added
        return found

    def compute(
        self, work: Callable[..., _T], given: np.ndarray, share: tuple[Any, ...]
    ) -> tuple[_T, dict[str, np.ndarray]]:
        """Compute a share of the work of a policy in another process.

        Args:
            work: A method of this class.
            given: The parameters of that policy, as one vector.
            share: Arguments of the method.

        Returns:
            The result, and the gradient of each parameter by name, except for those that no pass used.
        """
        vector_to_parameters(torch.from_numpy(given), self._parameters.values())
        self._require_optimiser().zero_grad()
        result = work(self, *share)
        return result, {key: p.grad.numpy() for key, p in self._parameters.items() if p.grad is not None}

    def _require_optimiser(self) -> torch.optim.AdamW:
        if self._optimiser is None:
            raise RuntimeError(f"policy {self.name!r} is read-only")
        return self._optimiser

    @contextlib.contextmanager
    def _rows(self, sequences: Sequence[tuple[Tokens, Tokens]]) -> Iterator[Iterator[tuple[Pack, Tensor]]]:
        """Rows and their targets' log-probabilities; see `packed_logprobs`. Leaving the context ends the iteration."""
        engine = self._engine
        above = engine.config.recompute_above if torch.is_grad_enabled() else None

        def computed(model: Any) -> Generator[tuple[Pack, Tensor], None, None]:
            shares, budget = engine.path.shares, engine.tokens_per_batch
            pads = not scales_with_length(model)
            for batch in pack(sequences, budget) if shares else padded(sequences, budget, pads=pads):
                with recomputing(model) if above is not None and above < batch.tokens else contextlib.nullcontext():
                    yield from packed_logprobs(model, batch) if shares else plain_logprobs(model, batch)

        with engine.holding(self._parameters) as model, contextlib.closing(computed(model)) as rows:
            yield rows


def _in_place(shares: Sequence[Sequence[int]], found: Sequence[Sequence[_T]]) -> list[_T]:
    """The results of all shares in the order of the batch; shares hold indices into the batch."""
    by_number = {
        number: one for share, part in zip(shares, found, strict=True) for number, one in zip(share, part, strict=True)
    }
    return [by_number[number] for number in range(len(by_number))]
