"""fetch_openai's estimate, settings and key."""

import json
import logging
import shutil
import subprocess

import pytest

from recbole_eimf.core.errors import ConfigError, InterestSourceError
from recbole_eimf.semantic.encoders.text_encoder import EncoderSettings
from recbole_eimf.semantic.llm.access import Secret, check_address, read_key
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


BARRED = [
    ("HTTPS_PROXY", "foo://proxy:3128", "HTTPS_PROXY=foo://proxy:3128 .*not a proxy's address"),
    ("https_proxy", "http://me:letmein@proxy:99999", "https_proxy=http://proxy:99999 .*not a proxy's address"),
    ("HTTP_PROXY", "me:letmein@my proxy:80", "HTTP_PROXY=my proxy:80 .*not a proxy's address"),
    ("ALL_PROXY", "http://", "ALL_PROXY=http:// .*not a proxy's address"),
    ("SSL_CERT_FILE", "nowhere.pem", "SSL_CERT_FILE=nowhere.pem .*No such file"),
    ("SSL_CERT_FILE", "notes.txt", "SSL_CERT_FILE=notes.txt .*holds no certificate"),
    ("SSL_CERT_DIR", "nowhere", "SSL_CERT_DIR=nowhere .*no such folder"),
]


def without_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(("name", "value", "told"), BARRED, ids=[f"{name}-{value}" for name, value, _ in BARRED])
def test_an_environment_that_bars_the_way_out_is_named(tmp_path, monkeypatch, name, value, told):
    """Proxies and certificates of the environment: as a client is made, and before any work at all."""
    without_proxies(monkeypatch)
    (tmp_path / "notes.txt").write_text("no certificate\n")
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=told) as error:
        check_address("http://127.0.0.1:1/v1")
    assert "letmein" not in str(error.value)
    with pytest.raises(ConfigError, match=told):
        fetch_openai(requests(1), OpenAISettings("m", "http://127.0.0.1:1/v1", "TEST_LLM_KEY"), tmp_path / "j")


def test_a_socks_proxy_names_the_package_that_it_needs(monkeypatch):
    without_proxies(monkeypatch)
    monkeypatch.setenv("ALL_PROXY", "socks5://me:letmein@127.0.0.1:1080")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'ALL_PROXY=socks5://127.0.0.1:1080 .*pip install "httpx\[socks\]"'):
        check_address("http://127.0.0.1:1/v1")


def test_good_proxies_pass(monkeypatch):
    without_proxies(monkeypatch)
    for value in (
        "http://me:pw@proxy.example:3128",
        "proxy.example:3128",
        "https://proxy.example",
        "http://[::1]:8080",
    ):
        monkeypatch.setenv("HTTPS_PROXY", value)
        check_address("http://127.0.0.1:1/v1")


def test_a_proxy_that_is_not_there_is_named_and_its_password_is_not(tmp_path, monkeypatch):
    without_proxies(monkeypatch)
    monkeypatch.setenv("HTTP_PROXY", "http://me:letmein@127.0.0.1:1")
    settings = OpenAISettings("m", "http://llm.example/v1", "TEST_LLM_KEY", max_retries=0)
    with pytest.raises(InterestSourceError) as error:
        fetch_openai(requests(1), settings, tmp_path / "j", progress=False)
    assert "by way of HTTP_PROXY=http://127.0.0.1:1" in str(error.value)
    assert "letmein" not in str(error.value)


def test_a_certificate_that_nobody_known_has_signed_ends_the_run_at_once(tmp_path, monkeypatch):
    without_proxies(monkeypatch)
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which makes a certificate")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "ca")]
    subprocess.run(made, check=True, capture_output=True)
    with LLMServer(certificate=(tmp_path / "ca", tmp_path / "key")) as server:
        settings = OpenAISettings("m", server.url, "TEST_LLM_KEY", max_retries=5)
        with pytest.raises(InterestSourceError, match=r"SSL_CERT_FILE=/path/to/ca\.pem"):
            fetch_openai(requests(3), settings, tmp_path / "j", progress=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca"))
        assert len(fetch_openai(requests(3), settings, tmp_path / "j", progress=False)) == 3


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
