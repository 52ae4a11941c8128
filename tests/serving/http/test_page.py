"""The page in a real browser: a history picked by title, recommendations with reasons, on a wide screen and a phone."""

from __future__ import annotations

import json

import pytest

from recbole_eimf.serving.http import answers
from tests.browser import browser  # noqa: F401
from tests.serving.http.conftest import expected


def test_a_history_is_picked_by_title_and_recommendations_come_with_reasons(live, browser, first, tmp_path):  # noqa: F811
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    service = live()
    page = browser(1280, 900)

    def found(selector):
        return page.find_elements(By.CSS_SELECTOR, selector)

    def texts(selector):
        return page.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector
        )

    def until(condition):
        return WebDriverWait(page, 30).until(lambda _: condition())

    def shown():
        """Tokens recommended; None while an answer is awaited."""
        busy = "return document.getElementById('results').classList.contains('old')"
        return None if page.execute_script(busy) else texts("#results .token")

    def best(history, k=10):
        return [item for item, _ in expected(first, [history], k=k, exclude_seen=True)[0]]

    page.get(f"{service.url}/")
    until(lambda: shown() == best([]))
    assert "bought most" in texts("#said")[0]
    assert "60 items" in texts("#model")[0]

    field = found("#search")[0]
    field.send_keys("number 17")
    until(lambda: texts("#found .token") == ["i17"])
    field.send_keys(Keys.ENTER)
    until(lambda: shown() == best(["i17"]))
    field.send_keys("number 23")
    until(lambda: texts("#found .token") == ["i23"])
    found("#found li")[0].click()
    until(lambda: shown() == best(["i17", "i23"]))
    assert texts("#history .token") == ["i17", "i23"]
    assert any("because of" in why and "thing number" in why for why in texts("#results .why"))

    third = shown()[2]
    found("#results .add")[2].click()
    until(lambda: shown() == best(["i17", "i23", third]))
    found("#history button")[0].click()
    until(lambda: shown() == best(["i23", third]))
    page.find_element(By.CSS_SELECTOR, "#k option:nth-child(3)").click()
    until(lambda: shown() == best(["i23", third], 20))
    field.send_keys("no such thing <b>")
    until(lambda: texts("#found .none"))
    field.send_keys(Keys.ESCAPE)
    assert not found("#found")[0].is_displayed()
    page.save_screenshot(str(tmp_path / "1280.png"))

    for width in (1280, 390):
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for address in ("", "docs"):
            page.get(f"{service.url}/{address}")
            until(lambda: found("#results li, .call"))
            assert page.execute_script("return document.documentElement.scrollWidth") <= width
            page.save_screenshot(str(tmp_path / f"{width}{address}.png"))
    messages = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    asked = [one["params"]["request"]["url"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [address for address in asked if address.startswith(("http", "ws"))]  # not the browser's own first page
    assert f"{service.url}/recommend" in asked
    assert [address for address in asked if not address.startswith(f"{service.url}/")] == []
    assert [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("means_more", [False, True])
def test_the_page_says_first_what_sentences_are_worth(live, browser, monkeypatch, means_more):  # noqa: F811
    from selenium.webdriver.support.ui import WebDriverWait

    said = answers.recommended

    def with_sentences(served, asked):
        answer = said(served, asked) | {
            "said_by": "an LLM says",
            "honesty": "what it is worth",
            "means_more": means_more,
        }
        for item in answer["results"][0]["items"]:
            item["sentence"] = "hair care"
        return answer

    monkeypatch.setattr(answers, "recommended", with_sentences)
    page = browser(1280, 900)
    page.get(f"{live().url}/")
    texts = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
    WebDriverWait(page, 30).until(lambda _: page.execute_script(texts, "#results .why"))
    assert page.execute_script(texts, "#honesty") == ["what it is worth"]
    assert page.execute_script("return document.getElementById('honesty').classList.contains('bad')") is not means_more
    order = "return document.getElementById('honesty').compareDocumentPosition(document.getElementById('results'))"
    assert page.execute_script(order) == 4  # the list follows
    why = page.execute_script(texts, "#results .why")
    assert all(("no better than a placebo's" in reason) is not means_more for reason in why)
    assert all("an LLM says of users like this one" in reason and "hair care" in reason for reason in why)
