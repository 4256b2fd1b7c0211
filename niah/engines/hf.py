"""Any causal language model of Hugging Face transformers, on a GPU or the CPU.

A prompt is read in chunks, of which only the last token's logits are made. The cache of the last prompt stays: what the next one begins
with alike is not read again. Models whose cache cannot be cut back (sliding windows, state spaces) read every prompt as a whole.
"""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from niah.engines import EngineError, Generation, Sampling, Step
from niah.engines.checkpoint import first_line, quiet
from niah.engines.inference import chooser, usable, within_memory
from niah.engines.memory import free_bytes, size

CHUNK_TOKENS = 1024


class HfEngine:
    """The checkpoint in a folder. `memory_bytes` bounds what keys and values may take; without it, what is free on the device does."""

    border_after_context = False

    def __init__(self, folder: Path, *, device: str | None = None, chunk_tokens: int = CHUNK_TOKENS, memory_bytes: int | None = None):
        import torch

        self._folder, self._chunk_tokens, self._memory_bytes = folder, chunk_tokens, memory_bytes
        self._config = _config(folder)
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        window = getattr(self._config.get_text_config(), "max_position_embeddings", None)
        self.window_tokens: int | None = window if isinstance(window, int) and window > 0 else None
        self.stop_ids = _stop_ids(folder, self._config)
        self._model: Any = None
        self._cache: Any = None
        self._read: list[int] = []
        """The tokens whose keys and values are in the cache."""

    def generate(
        self,
        prompt: Iterable[Sequence[int]],
        max_new_tokens: int,
        *,
        stop_ids: Collection[int],
        sampling: Sampling,
        report: Callable[[Step], None],
    ) -> Generation:
        """See `Engine`. The answer ends at the window's end too, with stop "length"."""
        import torch

        ids = list(chain.from_iterable(prompt))
        most_new = self._room(ids, max_new_tokens)
        whole = False
        try:
            with torch.inference_mode(), within_memory(self.device):
                self._load()
                self._check_vocabulary(ids)
                generation = self._generate(ids, most_new, stop_ids, sampling, report)
            whole = True
        # All that the code of somebody else's architecture raises when its config.json or weights do not fit it.
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
            told = f"{type(error).__name__}: {first_line(error)}"
            raise EngineError(f"{type(self._model).__name__} cannot be run: {told}", kind="checkpoint") from error
        finally:
            if not whole:
                self._forget()
        return generation

    def close(self) -> None:
        """See `Engine`."""
        self._model = None
        gc.collect()  # transformers' models hold themselves in circles
        self._forget()

    def _forget(self) -> None:
        import torch

        self._cache, self._read = None, []
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _room(self, ids: list[int], max_new_tokens: int) -> int:
        """How many tokens the answer may have."""
        if not ids:
            raise EngineError("the prompt is empty", kind="prompt")
        if self.window_tokens is None:
            return max_new_tokens
        if len(ids) >= self.window_tokens:
            raise EngineError(f"the prompt has {len(ids):,} of the model's own tokens; its window is {self.window_tokens:,}", kind="window")
        return min(max_new_tokens, self.window_tokens - len(ids))

    def _check_vocabulary(self, ids: list[int]) -> None:
        known = self._model.get_input_embeddings().weight.shape[0]
        if max(ids) >= known:
            raise EngineError(f"its tokenizer does not fit: it made the id {max(ids):,}, the weights know {known:,}", kind="checkpoint")

    def _load(self) -> None:
        if self._model is None:
            self._model = _load(self._folder, self._config, self.device)
            parameters = inspect.signature(self._model.forward).parameters
            name = next((name for name in ("past_key_values", "cache_params") if name in parameters), None)
            if name is None:
                raise EngineError(f"{type(self._model).__name__} has no cache that niah knows", kind="checkpoint")
            self._cache_name = name
            self._only_last: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

    def _generate(
        self, ids: list[int], most_new: int, stop_ids: Collection[int], sampling: Sampling, report: Callable[[Step], None]
    ) -> Generation:
        started = time.perf_counter()
        reused = self._reuse(ids)
        choose = chooser(sampling, self.device)
        token = choose(self._prefill(ids, reused, most_new, report))
        prefilled = time.perf_counter()
        made: list[int] = []
        while token not in stop_ids:
            made.append(token)
            report(Step(phase="decode", tokens=len(made), total=most_new, seconds=time.perf_counter() - prefilled))
            if len(made) == most_new:
                break
            token = choose(self._forward([token]))
        return Generation(
            ids=tuple(made),
            stop="length" if token not in stop_ids else "end",
            prompt_tokens=len(ids),
            reused_tokens=reused,
            prefill_seconds=prefilled - started,
            decode_seconds=time.perf_counter() - prefilled,
            measured={"state_bytes": _state_bytes(self._cache)},
        )

    def _reuse(self, ids: list[int]) -> int:
        """Cut the cache back to what it has in common with a prompt, which is not all of it: its last token's logits are wanted."""
        from transformers import DynamicCache

        same = 0
        while same < min(len(self._read), len(ids) - 1) and self._read[same] == ids[same]:
            same += 1
        if same and _croppable(self._cache):
            self._cache.crop(same - len(self._read))
            del self._read[same:]
            return same
        self._forget()
        self._cache = DynamicCache(config=self._config)
        return 0

    def _prefill(self, ids: list[int], reused: int, most_new: int, report: Callable[[Step], None]) -> Any:
        """Read the rest of a prompt; logits [vocabulary] behind it."""
        started, total = time.perf_counter(), len(ids) - reused
        chunk = self._chunk_tokens if self._takes_chunks() else total
        logits: Any = None
        for start in range(reused, len(ids), chunk):
            logits = self._forward(ids[start : start + chunk])
            if start == reused:
                self._check_memory(len(ids) + most_new)
            report(Step(phase="prefill", tokens=len(self._read) - reused, total=total, seconds=time.perf_counter() - started))
        return logits

    def _takes_chunks(self) -> bool:
        """State-space layers go on with one token at a time, or read a whole text."""
        from transformers import cache_utils

        return all(type(layer) in (cache_utils.DynamicLayer, cache_utils.DynamicSlidingWindowLayer) for layer in self._cache.layers)

    def _forward(self, ids: list[int]) -> Any:
        import torch

        tokens = torch.tensor([ids], device=self.device)
        output = self._model(input_ids=tokens, use_cache=True, return_dict=True, **{self._cache_name: self._cache}, **self._only_last)
        self._read += ids
        return output.logits[0, -1]

    def _check_memory(self, tokens: int) -> None:
        """Held against what is free after the first chunk, which shows what a token takes; appending needs the largest layer twice."""
        if not _croppable(self._cache):
            return
        layers = [layer.keys.nbytes + layer.values.nbytes for layer in self._cache.layers if layer.is_initialized]
        there = sum(layers)
        needed = there * tokens // len(self._read)
        free = free_bytes(self.device)
        most = self._memory_bytes if self._memory_bytes is not None else None if free is None else free + there
        if most is not None and needed + needed * max(layers) // there > most:
            raise EngineError(
                f"the keys and values of {tokens:,} tokens take {size(needed)}; {size(most)} are free on {self.device}", kind="memory"
            )


def _state_bytes(cache: Any) -> int:
    """What is kept of the text: keys and values, or the states of layers that have none."""
    import torch

    return sum(value.nbytes for layer in cache.layers for value in vars(layer).values() if isinstance(value, torch.Tensor))


def _croppable(cache: Any) -> bool:
    from transformers import cache_utils

    return all(type(layer) is cache_utils.DynamicLayer for layer in cache.layers)


def _config(folder: Path) -> Any:
    transformers = quiet()
    if not (folder / "config.json").is_file():
        raise EngineError("there is no config.json in it: it is no checkpoint of transformers", kind="checkpoint")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # broken JSON, an unknown architecture
        why = "it needs code of its own, which niah does not run" if "custom code" in str(error) else first_line(error)
        raise EngineError(f"its config.json cannot be used: {why}", kind="checkpoint") from None
    named = " or ".join(config.architectures or ()) or config.model_type
    known = type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not config.is_encoder_decoder
    ours = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].__name__ if known else ""
    if not known or not any(name == ours or name.endswith("ForCausalLM") for name in config.architectures or (ours,)):
        raise EngineError(f"it is a {named}, no causal language model", kind="checkpoint")
    return config


def _stop_ids(folder: Path, config: Any) -> frozenset[int]:
    from transformers import GenerationConfig

    there = (folder / "generation_config.json").is_file()
    try:
        told = (GenerationConfig.from_pretrained(folder) if there else config.get_text_config()).eos_token_id
    except (OSError, ValueError) as error:
        raise EngineError(f"its generation_config.json cannot be used: {first_line(error)}", kind="checkpoint") from None
    return frozenset(told if isinstance(told, list) else [] if told is None else [told])


def _load(folder: Path, config: Any, device: str) -> Any:
    import torch

    transformers = quiet()
    own = config.get_text_config().dtype or torch.float32
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=usable(own, device), local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except MemoryError:
        raise
    except Exception as error:  # safetensors and torch raise exceptions of their own
        why = "they have other shapes than its config.json says" if "mismatched_sizes" in str(error) else first_line(error)
        raise EngineError(f"its weights cannot be read: {why}", kind="checkpoint") from None
    missing: list[str] = sorted(info["missing_keys"])
    if missing:
        raise EngineError(f"its weights lack {len(missing):,} tensors, such as {missing[0]}", kind="checkpoint")
    return model.eval().to(device)


def open_engine(folder: Path) -> HfEngine:
    """The engine of a checkpoint's folder; EngineError (checkpoint) when it holds none that fits."""
    return HfEngine(folder)
