"""fetch_openai's estimate, settings and key."""

import json
import logging

import pytest

from recbole_eimf.core.errors import ConfigError, InterestSourceError
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
from recbole_eimf.semantic.llm.access import Secret, read_key
from recbole_eimf.semantic.llm.client import OpenAISettings, answered_users, fetch_openai
from recbole_eimf.semantic.llm.price import Estimate, estimate_calls
from recbole_eimf.semantic.llm.prompt import PromptRequest
from tests.semantic.llm_calls import KEY, always, fetch, requests, settings
from tests.semantic.llm_server import Answer, LLMServer

pytestmark = pytest.mark.usefixtures("quick_endpoint")


# --- estimate, settings, key ------------------------------------------------------------------------------------------


def test_estimate_counts_only_what_is_not_journalled(tmp_path):
    priced = OpenAISettings("m", max_tokens=50, price_in=2.0, price_out=10.0)
    asked = [PromptRequest(user, "x" * 400) for user in "abcd"] + [PromptRequest("e", "茶" * 4)]
    assert estimate_calls(asked, priced, {"a", "b", "zzz"}) == Estimate(
        3, 2, 203, 150, (203 * 2 + 150 * 10) / 1e6, 6, ((203 + 203 + 150 + 3 * 40) * 2 + 300 * 10) / 1e6
    )
    assert estimate_calls(asked, OpenAISettings("m", price_in=2.0), ()).cost is None
    with LLMServer() as server:
        fetch(server, tmp_path, 2)
        assert answered_users(requests(3), settings(server), tmp_path / "journal.jsonl") == {"u0", "u1"}
    assert answered_users(requests(3), settings(server), tmp_path / "none.jsonl") == set()


def test_the_estimate_is_logged_before_the_first_call(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    seen = []
    with LLMServer(lambda asked, n: seen.append(caplog.text) or Answer()) as server:
        fetch(server, tmp_path, 3, price_in=1.0, price_out=1.0)
    assert "3 calls (0 answered by the journal)" in seen[0]
    assert "less than $0.01; up to 6 calls and less than $0.01 where replies cannot be read" in seen[0]
    assert "3 ok, 0 failed, 30 prompt and 15 completion tokens" in caplog.text
    assert "HTTP Request" not in caplog.text


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": ""}, "llm_model"),
        ({"concurrency": 0}, "llm_concurrency=0"),
        ({"max_retries": -1}, "llm_max_retries=-1"),
        ({"timeout": 0}, "llm_timeout=0"),
        ({"structured": "maybe"}, "llm_structured='maybe'"),
        ({"max_interests": 0}, "^max_interests=0"),
        ({"check_first": -1}, "llm_check_first=-1"),
    ],
)
def test_settings_that_cannot_work(changes, named):
    with pytest.raises(ConfigError, match=named):
        OpenAISettings(**{"model": "m", **changes})


def test_yaml_booleans_for_structured():
    assert (OpenAISettings("m", structured=True).structured, OpenAISettings("m", structured=False).structured) == (
        "on",
        "off",
    )


@pytest.mark.parametrize("url", ["127.0.0.1:1/v1", "nonsense", "file:///etc"])
def test_a_base_url_that_is_none(tmp_path, monkeypatch, url):
    with pytest.raises(ConfigError, match="llm_base_url=.*begins with http:// or https://"):
        OpenAISettings("m", url, "TEST_LLM_KEY")
    monkeypatch.setenv("OPENAI_BASE_URL", url)  # which only the client reads
    with pytest.raises(InterestSourceError, match="OPENAI_BASE_URL is not a URL"):
        fetch_openai(requests(1), OpenAISettings("m", None, "TEST_LLM_KEY"), tmp_path / "j", progress=False)


def test_the_key_file_comes_before_the_variable(tmp_path):
    (tmp_path / "key").write_text("sk-from-file\n")
    with LLMServer() as server:
        fetch(server, tmp_path, api_key_file=str(tmp_path / "key"))
    assert server.asked[0].authorization == "Bearer sk-from-file"


@pytest.mark.parametrize("value", [None, "", "  ", f"{KEY} {KEY}", f"{KEY}\n{KEY}", f"{KEY}é"])
def test_no_key_or_a_malformed_one(monkeypatch, value):
    monkeypatch.delenv("TEST_LLM_KEY")
    if value is not None:
        monkeypatch.setenv("TEST_LLM_KEY", value)
    with pytest.raises(InterestSourceError, match="TEST_LLM_KEY") as error:
        read_key(OpenAISettings("m", api_key_env="TEST_LLM_KEY"))
    assert KEY not in str(error.value)


def test_no_key_file(tmp_path):
    with pytest.raises(InterestSourceError, match="nokey"):
        read_key(OpenAISettings("m", api_key_file=str(tmp_path / "nokey")))


def test_the_key_in_place_of_its_variables_name_is_not_repeated():
    with pytest.raises(ConfigError, match="api_key_env") as error:
        OpenAISettings("m", api_key_env=KEY)
    assert KEY not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{KEY}@host/v1",
        f"me:{KEY}@host/v1",
        f"https://host/v1?api-key={KEY}",
        f"https://host?a=1&token={KEY}",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_repeated(url):
    for part in (OpenAISettings, EncoderSettings):
        with pytest.raises(ConfigError, match="llm_base_url=.*llm_api_key_env") as error:
            part("m", base_url=url)
        assert KEY not in str(error.value)
    assert OpenAISettings("m", base_url="https://host/v1?api-version=2024-10-21").base_url


def chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("status", [200, 401, 400, 404, 500])
def test_the_key_is_nowhere(tmp_path, caplog, capfd, monkeypatch, on_terminal, status):
    """Not even if the endpoint echoes it, at the most talkative log level, in the URL, or in an exception's chain."""
    caplog.set_level(logging.DEBUG)
    echo = f"you sent {KEY}"
    answers = {
        200: always(content=json.dumps({"1": echo}), refusal=None),
        500: lambda asked, n: Answer(status=500, error={"message": echo}) if n else Answer(content=echo),
    }
    with LLMServer(answers.get(status, always(status=status, error={"message": echo, "code": KEY}))) as server:
        host = server.url.removeprefix("http://")
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://user:{KEY}@{host}?api_key={KEY}")
        options = settings(server, base_url=None, max_retries=1)
        caught = None
        try:
            fetched = fetch_openai(requests(2), options, tmp_path / "journal.jsonl", progress=True)
        except InterestSourceError as error:
            caught, fetched = error, {}
    assert server.asked, "nothing was sent"
    if caught is None:
        assert status == 200
        assert fetched["u0"].interests == ("you sent ***",)
    written = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    out = capfd.readouterr()
    told = "".join(f"{error} {error!r} {vars(error)}" for error in chain(caught))
    shown = {
        "files": written,
        "log": caplog.text,
        "stdout": out.out,
        "stderr": out.err,
        "exception": told,
        "replies": repr(fetched),
        "secret": repr(read_key(options)) + repr(vars(read_key(options))),
    }
    assert [place for place, text in shown.items() if KEY in text] == []
    assert "interests" in out.err, "the progress bar was not captured"


def test_settings_never_hold_the_key(tmp_path):
    (tmp_path / "key").write_text(KEY)
    options = OpenAISettings("m", api_key_env="TEST_LLM_KEY", api_key_file=str(tmp_path / "key"))
    assert KEY not in repr(options) + str(vars(options))


def test_a_placeholder_key_is_no_secret():
    assert Secret("EMPTY").scrub("an EMPTY box") == "an EMPTY box"
    assert Secret("sk-12345").scrub("Bearer sk-12345.") == "Bearer ***."
