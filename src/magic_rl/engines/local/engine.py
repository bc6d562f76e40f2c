"""The local engine: one frozen transformers model in this process and any number of LoRA policies on it.

The model carries a single adapter slot. Each policy owns its adapter's parameters and puts them into the slot before it
samples or learns, so a policy costs the memory of an adapter, not of a model, and switching copies nothing.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, PretrainedConfig

from magic_rl.engines.base import ComputePath
from magic_rl.engines.local.inference import inferring
from magic_rl.engines.local.lora import streamline
from magic_rl.engines.local.memory import give_back_freed_memory, keep_freed_memory
from magic_rl.engines.local.models import fingerprint, load_base, load_renderer, resolve_model
from magic_rl.engines.local.parity import ANSWER, QUESTIONS, choose_path
from magic_rl.engines.local.policy import ADAPTER_FILE, OPTIMISER_FILE, LocalPolicy
from magic_rl.engines.local.scoring import recomputable
from magic_rl.engines.local.workers import Workers
from magic_rl.engines.settings import EngineConfig, LoraConfig
from magic_rl.errors import UserError
from magic_rl.files import name_of
from magic_rl.rng import derive
from magic_rl.text.chat import ChatRenderer
from magic_rl.types import Message, Tokens

_log = logging.getLogger(__name__)

_LORA, _ENGINE = LoraConfig(), EngineConfig()
_SAME_INPUT = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_SLOT = "default"  # PEFT's own name for a first adapter, so that saved ones load with plain PEFT


class LocalEngine:
    """A frozen base model with one adapter slot. Implements `engines.base.Engine`.

    Policies of one engine share the model, so only one of them computes at a time.
    """

    def __init__(
        self,
        model: str | Path = "default",
        lora: LoraConfig = _LORA,
        config: EngineConfig = _ENGINE,
        *,
        rng_seed: int = 0,
        chat_template: str = "",
        tried: tuple[ComputePath, str] | None = None,
    ) -> None:
        """Load the base model.

        Args:
            model: Folder with safetensors weights and a tokenizer with a chat template, or a name for `resolve_model`.
            lora: Shape of every policy's adapter.
            config: Device, base dtype, batch limits, threads and processes.
            rng_seed: Random seed for the initialisation of adapters.
            chat_template: Replaces the tokenizer's own, for models that come without.
            tried: The path and the attention implementation to compute with, if known; else `parity` tries them.

        Raises:
            UserError: If the folder holds no usable model.
        """
        code = config.trust_remote_code
        folder = resolve_model(model, trust_remote_code=code) if isinstance(model, str) else model
        self.config = config
        self.device = device_of(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.processes = processes(config, self.device)
        self.dtype = dtype_of(config.dtype, self.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.tokens_per_batch = batch_tokens(config, self.device, self.dtype)
        self.folder = folder
        self._rng_seed = rng_seed
        self.renderer = load_renderer(str(folder), config, chat_template=chat_template)
        unquantised(folder, config)
        base = load_base(folder, self.dtype, trust_remote_code=code)
        if config.recompute_above and not recomputable(base):
            raise UserError(f"{folder}: has no layers that can recompute their activations", "do not recompute")
        base.requires_grad_(False).to(self.device).eval()
        if tried:
            self.path = tried[0]
            base.set_attn_implementation(tried[1])
        else:
            self.path = replace(choose_path(base, *self._dialogue(base)), processes=self.processes)
            _log.log(logging.INFO if self.path.shares else logging.WARNING, "%s: %s", name_of(folder), self.path)
        one = config.model_copy(update={"processes": 1, "threads": torch.get_num_threads() // self.processes})
        known = {"chat_template": chat_template, "tried": (self.path, base.config._attn_implementation)}
        self.workers = Workers(self.processes - 1, _worker, folder, lora, one, known)
        self.model, self.peft_config = with_adapters(base, lora, folder)
        self.model.to(self.device).eval()
        self._slot = _adapter_slot(self.model)
        self._adapted = with_same_input(self.model)

    @cached_property
    def identity(self) -> str:
        """See `Engine.identity`."""
        return fingerprint(self.folder)

    def _dialogue(self, model: Any) -> tuple[list[Tokens], Tokens]:
        """Prompts and a reply on which `parity` measures how exactly the model is computed."""
        try:
            prompts = [self.renderer.prompt([Message("user", question)]) for question in QUESTIONS]
        except UserError:  # a template that is not for chat, such as a guard's
            prompts = [self.renderer.completion(question)[:-1] for question in QUESTIONS]
        answer = self.renderer.completion(ANSWER)
        size = model.get_input_embeddings().weight.shape[0]
        if max(map(max, (*prompts, answer))) >= size:
            raise UserError(f"{self.folder}: its tokenizer has ids beyond the model's {size}; use the model's own")
        return prompts, answer

    def renderer_with(self, variables: Mapping[str, object]) -> ChatRenderer:
        """See `Engine.renderer_with`."""
        return self.renderer.given(variables)

    def new_policy(self, name: str) -> LocalPolicy:
        """A fresh trainable policy: A is random and B is zero, so it starts as the base model."""
        generator = torch.Generator().manual_seed(derive(self._rng_seed, 0, f"adapter {name}"))
        parameters = {}
        for key, (module, attribute) in self._slot.items():
            shape = module.get_parameter(attribute).shape
            weight = torch.zeros(shape, dtype=torch.float32)
            if ".lora_A." in key:
                nn.init.kaiming_uniform_(weight, a=5**0.5, generator=generator)
            parameters[key] = nn.Parameter(weight.to(self.device))
        return LocalPolicy(name, self, parameters)

    def load(self, directory: Path, name: str) -> LocalPolicy:
        """A trainable policy from a folder that `LocalPolicy.save` wrote, optimiser state included."""
        try:
            tensors = load_file(directory / ADAPTER_FILE, device=str(self.device))
            parameters = {key: nn.Parameter(tensors[_saved_name(key)].float()) for key in self._slot}
            policy = LocalPolicy(name, self, parameters)
            if (directory / OPTIMISER_FILE).exists():
                policy.load_optimiser(directory / OPTIMISER_FILE)
        except (OSError, KeyError, SafetensorError, json.JSONDecodeError) as error:
            raise UserError(f"{directory}: holds no policy of {self.folder.name} ({error})") from error
        return policy

    def base(self) -> LocalPolicy:
        """The base model without any adapter, read-only."""
        return LocalPolicy("base", self, {}, trainable=False)

    @contextlib.contextmanager
    def computing(self, shares: int) -> Iterator[None]:
        """Compute one of `shares` shares, on the threads that the others leave."""
        threads = torch.get_num_threads()
        if shares > 1:
            torch.set_num_threads(threads - (shares - 1) * (threads // self.processes))
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @contextlib.contextmanager
    def holding(self, parameters: dict[str, nn.Parameter]) -> Iterator[nn.Module]:
        """Put a policy's parameters into the adapter slot; if it has none, switch the adapter off."""
        compute = torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)
        with compute, contextlib.ExitStack() as stack:
            if parameters:
                for key, (module, attribute) in self._slot.items():
                    module._parameters[attribute] = parameters[key]
            else:
                stack.enter_context(self.model.disable_adapter())
            yield self.model

    @contextlib.contextmanager
    def speaking(self, parameters: dict[str, nn.Parameter]) -> Iterator[nn.Module]:
        """Let the model compute with a policy's adapter, laid out for few rows and without gradients; see `inferring`.

        On a CPU this keeps a second copy of the adapted weights and of the head for as long.
        """
        with self.holding(parameters), contextlib.ExitStack() as stack:
            stack.enter_context(torch.autocast(self.device.type, enabled=False))
            for layers in self._adapted:
                adapters = [
                    (layer.lora_A[_SLOT].weight, layer.lora_B[_SLOT].weight * layer.scaling[_SLOT])
                    for layer in (layers if parameters else ())
                ]
                stack.enter_context(inferring(layers, adapters))
            head = self.model.get_base_model().get_output_embeddings()
            if type(head) is nn.Linear:
                stack.enter_context(inferring([head]))
            yield self.model
        if self.device.type == "cpu":
            give_back_freed_memory()

    def saved_names(self, parameters: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
        """Tensors by the names that PEFT gives them on disk."""
        return {_saved_name(key): tensor.detach().cpu().contiguous() for key, tensor in parameters.items()}


def _worker(
    folder: Path, lora: LoraConfig, config: EngineConfig, known: dict[str, Any]
) -> Callable[[Callable[..., Any], Any, tuple[Any, ...]], tuple[Any, Any]]:
    """Load the model in a worker process; returns the function that computes shares of another engine's work."""
    engine = LocalEngine(folder, lora, config, **known)
    stand_in = engine.new_policy("share")

    def compute(work: Callable[..., Any], given: Any, share: tuple[Any, ...]) -> tuple[Any, Any]:
        return (work(engine.base(), *share), {}) if given is None else stand_in.compute(work, given, share)

    return compute


def _saved_name(key: str) -> str:
    return key.replace(f".{_SLOT}.", ".")


def _adapter_slot(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each adapter parameter lives: full name -> (module, attribute)."""
    for module in model.modules():
        if isinstance(module, PeftLinear):
            streamline(module, _SLOT)
    modules = dict(model.named_modules())
    slot = {}
    for key, parameter in model.named_parameters():
        if ".lora_A." in key or ".lora_B." in key:
            owner, _, attribute = key.rpartition(".")
            slot[key] = (modules[owner], attribute)
        else:
            parameter.requires_grad_(False)
    return slot


def with_same_input(model: nn.Module) -> list[list[PeftLinear]]:
    """Layers with adapters, grouped if their names say that they get the same input.

    A group's rank must be small compared with its input's width, to which a joint product adds the ranks of all layers.
    """
    groups: defaultdict[tuple[object, ...], list[PeftLinear]] = defaultdict(list)
    for name, module in model.named_modules():
        if isinstance(module, PeftLinear):
            parent, _, own = name.rpartition(".")
            base, alike = module.get_base_layer(), next((names for names in _SAME_INPUT if own in names), (own,))
            if module.r[_SLOT] * (len(alike) - 1) > base.in_features / 16:
                alike = (own,)
            groups[parent, alike, base.in_features, base.weight.dtype, base.bias is None].append(module)
    return list(groups.values())


def unquantised(folder: Path, config: EngineConfig) -> PretrainedConfig:
    """A model's own config. Raises UserError if its weights are quantised: no adapter could be merged into them."""
    settings: PretrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=config.trust_remote_code)
    if getattr(settings, "quantization_config", None):
        raise UserError(f"{folder}: its weights are quantised; take the model as it was before that")
    return settings


def with_adapters(base: Any, lora: LoraConfig, folder: Path) -> tuple[PeftModel, PeftLoraConfig]:
    """Add the adapter slot to a base model, or to a model without weights on the device "meta".

    Raises:
        UserError: If the model lacks the target modules, or if this engine would not train some of them.
    """
    targets = lora.target_modules if lora.target_modules == "all-linear" else list(lora.target_modules)
    settings = PeftLoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets, task_type="CAUSAL_LM")
    try:
        model = get_peft_model(base, settings)
    except ValueError as error:
        raise UserError(f"lora.target_modules: {targets!r} does not fit {folder}: {error}") from error
    _refuse_untrained(model, folder)
    return model, settings


def _refuse_untrained(model: Any, folder: Path) -> None:
    """Refuse adapters that this engine would not train, or that no export could hold, before anything is learned."""
    inputs, head = (model.get_base_model().get_input_embeddings(), model.get_base_model().get_output_embeddings())
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        base, where = layer.get_base_layer(), f"lora.target_modules: {name.rpartition('.')[2]} of {folder}"
        if type(layer) is not PeftLinear or type(base) is not nn.Linear:
            raise UserError(f"{where} is a {type(base).__name__}; only plain linear layers learn, so leave it out")
        if layer is head and base.weight is inputs.weight:
            raise UserError(f"{where} shares its weights with the input embedding, which has no adapter; leave it out")


def batch_tokens(config: EngineConfig, device: torch.device, dtype: torch.dtype) -> int:
    """The setting `tokens_per_batch`, or its default for this device and dtype."""
    # A CPU computes small batches as fast as large ones, and they keep fewer activations.
    small = 1280 if dtype == torch.bfloat16 else 640
    return config.tokens_per_batch or (small if device.type == "cpu" else 8192)


def processes(config: EngineConfig, device: torch.device) -> int:
    """How many processes compute: on a CPU at most one per thread, on other devices one."""
    return min(config.processes, config.threads or torch.get_num_threads()) if device.type == "cpu" else 1


def device_of(choice: str) -> torch.device:
    """The device that a setting means on this machine. Raises UserError if it is not available."""
    if choice != "auto":
        available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not available[choice]:
            raise UserError(f"device {choice!r} is not available here; use 'auto' or 'cpu'")
        return torch.device(choice)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def dtype_of(choice: str, device: torch.device) -> torch.dtype:
    """The base's dtype. On a CPU that cannot multiply in bfloat16, float32 is up to hundreds of times as fast."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch we allow
        fast = any(known.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16"))  # the last is Arm's
    else:
        fast = True
    if choice == "bfloat16" and not fast:
        _log.warning('this machine has no hardware for bfloat16, so it will be slow; dtype "auto" avoids that')
    return torch.bfloat16 if choice == "bfloat16" or (choice == "auto" and fast) else torch.float32
