"use strict";
// A history that is picked by title, and what the model recommends for it. Text from the service only ever becomes text.

const at = (id) => document.getElementById(id);
const search = at("search"), found = at("found");
let history_ = []; // {item, title}, oldest first
let marked = -1; // option of the list of items found
let lastSearch = 0, lastQuestion = 0; // answers that came too late are dropped

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

const nameOf = (item) => item.title || item.item;

function named(item) {
  const element = make("span", "", nameOf(item));
  if (item.title) element.append(make("span", "token", item.item));
  return element;
}

async function ask(address, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  for (let tries = 0; ; tries++) {
    const answer = await fetch(address, options || {});
    if (answer.status === 503 && tries < 3) {
      await new Promise((done) => setTimeout(done, 1000 * (Number(answer.headers.get("Retry-After")) || 1)));
      continue;
    }
    const content = await answer.json();
    if (answer.ok) return content;
    const detail = content.detail;
    throw new Error(Array.isArray(detail) ? detail.map((one) => `${one.loc.join(".")}: ${one.msg}`).join("; ") : detail);
  }
}

// ---------------------------------------------------------------------- search
function closeFound() {
  found.hidden = true;
  search.setAttribute("aria-expanded", "false");
  search.removeAttribute("aria-activedescendant");
  marked = -1;
}

function mark(place) {
  const options = [...found.querySelectorAll("[role=option]")];
  if (!options.length) return;
  marked = (place + options.length) % options.length;
  options.forEach((option, index) => option.setAttribute("aria-selected", String(index === marked)));
  options[marked].scrollIntoView({ block: "nearest" });
  search.setAttribute("aria-activedescendant", options[marked].id);
}

async function look() {
  const mine = ++lastSearch;
  let answer;
  try {
    answer = await ask(`items?limit=12&q=${encodeURIComponent(search.value.trim())}`);
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (mine !== lastSearch || document.activeElement !== search) return;
  found.replaceChildren(...answer.items.map((item, index) => {
    const option = named(item);
    const line = make("li");
    line.id = `option-${index}`;
    line.setAttribute("role", "option");
    line.setAttribute("aria-selected", "false");
    line.append(option);
    line.addEventListener("mousedown", (event) => {
      event.preventDefault(); // the field keeps the focus
      add(item);
    });
    return line;
  }));
  if (!answer.items.length) found.append(make("li", "none", "No title has all of these words."));
  found.hidden = false;
  search.setAttribute("aria-expanded", "true");
  marked = -1;
}

let waiting;
search.addEventListener("input", () => {
  clearTimeout(waiting);
  waiting = setTimeout(look, 120);
});
search.addEventListener("focus", look);
search.addEventListener("blur", closeFound);
search.addEventListener("keydown", (event) => {
  const options = found.hidden ? [] : [...found.querySelectorAll("[role=option]")];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    if (found.hidden) look();
    else mark(event.key === "ArrowDown" ? marked + 1 : marked < 0 ? -1 : marked - 1);
  } else if (event.key === "Enter" && options.length) {
    event.preventDefault();
    options[Math.max(marked, 0)].dispatchEvent(new MouseEvent("mousedown", { cancelable: true }));
  } else if (event.key === "Escape") closeFound();
});

// ---------------------------------------------------------------------- history
function add(item) {
  history_.push({ item: item.item, title: item.title });
  search.value = "";
  lastSearch++; // a search under way is of the past
  clearTimeout(waiting);
  closeFound();
  changed();
}

function changed() {
  at("history").replaceChildren(...history_.map((item, index) => {
    const line = make("li");
    const button = make("button", "", "×");
    button.type = "button";
    button.setAttribute("aria-label", `Remove ${nameOf(item)}`);
    button.addEventListener("click", () => {
      history_.splice(index, 1);
      changed();
    });
    line.append(named(item), button);
    return line;
  }));
  at("no-history").hidden = history_.length > 0;
  at("clear").disabled = !history_.length;
  recommend();
}

at("clear").addEventListener("click", () => {
  history_ = [];
  changed();
});
at("k").addEventListener("change", recommend);
at("seen").addEventListener("change", recommend);

// ---------------------------------------------------------------------- recommendations
function say(text, bad) {
  at("said").textContent = text;
  at("said").classList.toggle("bad", Boolean(bad));
}

async function recommend() {
  const mine = ++lastQuestion;
  at("results").classList.add("old");
  try {
    const answer = await ask("recommend", {
      history: history_.map((item) => item.item),
      k: Number(at("k").value),
      exclude_seen: at("seen").checked,
      explain: true,
    });
    if (mine === lastQuestion) show(answer);
  } catch (error) {
    if (mine === lastQuestion) {
      at("results").replaceChildren();
      say(error instanceof TypeError ? "The service cannot be reached." : error.message, true);
    }
  }
  if (mine === lastQuestion) at("results").classList.remove("old");
}

function show(answer) {
  const result = answer.results[0];
  const popular = result.source === "popularity";
  say(popular ? "No item of a history is known: these are bought most." : `For a history of ${history_.length}.`);
  if (!result.items.length) say("Nothing to recommend: no candidate is left.");
  at("results").replaceChildren(...result.items.map((item, index) => {
    const line = make("li");
    const title = named(item);
    title.firstChild.replaceWith(make("span", "title", nameOf(item)));
    const more = make("button", "add", "+ history");
    more.type = "button";
    more.setAttribute("aria-label", `Add ${nameOf(item)} to the history`);
    more.addEventListener("click", () => add(item));
    title.append(" ", more);
    line.append(make("span", "rank", index + 1), title, make("span", "score", popular ? `${item.score} times` : item.score.toFixed(3)));
    if (item.because && item.because.length) line.append(make("div", "why", `because of ${item.because.join("; ")}`));
    if (item.added) line.append(make("div", "why", item.added));
    if (item.sentence) {
      const doubt = answer.means_more === false ? " (no better than a placebo's)" : "";
      const said = make("div", "why", `${answer.said_by} of users like this one${doubt}: `);
      said.append(make("q", "", item.sentence));
      line.append(said);
    }
    return line;
  }));
  at("honesty").textContent = answer.honesty || "";
  at("honesty").hidden = !answer.honesty;
  at("honesty").classList.toggle("bad", answer.means_more === false);
}

ask("health").then((answer) => {
  at("model").textContent = `${answer.model.name}, ${answer.items.toLocaleString("en")} items`;
}, () => say("The service cannot be reached.", true));
changed();
