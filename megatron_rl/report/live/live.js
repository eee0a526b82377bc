// What follows makes the report's page live. Every text that comes as HTML is escaped by the server.
const key = new URLSearchParams(location.search).get("key");
const element = (id) => document.getElementById(id);
const address = (route, fields) => route + "?" + new URLSearchParams({ ...fields, key });

async function fetchText(route, fields) {
  const response = await fetch(address(route, fields));
  const text = await response.text();
  if (response.ok) return text;
  throw new Error(text || response.statusText);
}

function showError(target, error) {
  const note = document.createElement("p");
  note.className = "muted";
  note.textContent = String(error.message || error);
  target.replaceChildren(note);
}

// --- the stream of changes

function say(text, isLost) {
  element("connection").textContent = text;
  element("connection").classList.toggle("lost", isLost);
}

function replacePart({ id, html }) {
  const target = element(id);
  const value = target.value;
  const names = [...target.querySelectorAll("details[open] > summary")].map((line) => line.textContent);
  target.innerHTML = html;
  if (target.tagName === "SELECT") target.value = value;
  for (const line of target.querySelectorAll("details > summary")) {
    if (names.includes(line.textContent)) line.parentElement.open = true;
  }
}

function replaceFigures({ plots, figures: fresh }) {
  element("plots").innerHTML = plots;
  for (const name of Object.keys(figures)) delete figures[name];
  Object.assign(figures, fresh);
  watchPlots();
}

function growCurves(changes) {
  for (const [name, traces] of Object.entries(changes)) {
    for (const { trace, keep, ...points } of traces) {
      const target = figures[name].data[trace];
      for (const [field, added] of Object.entries(points)) {
        target[field] = [...target[field].slice(0, keep), ...added];
      }
    }
    outdated.add(name);
  }
  redrawSoon();
}

function isOnScreen(name) {
  const box = element("plot-" + name).getBoundingClientRect();
  return box.bottom > -300 && box.top < innerHeight + 300;
}

let isRedrawDue = false;
function redrawSoon() {
  if (isRedrawDue || document.hidden) return;  // a hidden page is drawn when it is seen again
  isRedrawDue = true;
  requestAnimationFrame(() => {
    isRedrawDue = false;
    for (const name of [...outdated]) if (drawn.has(name) && isOnScreen(name)) draw(name);
  });
}
document.addEventListener("visibilitychange", redrawSoon);

const stream = new EventSource(address("events", { after: document.body.dataset.lastId }));
stream.onopen = () => say("live", false);
stream.onerror = () => (stream.readyState === EventSource.CLOSED
  ? say("not live: open the address that megatron-rl watch printed last", true)
  : say("connecting again", true));
stream.addEventListener("part", (event) => replacePart(JSON.parse(event.data)));
stream.addEventListener("figures", (event) => replaceFigures(JSON.parse(event.data)));
stream.addEventListener("curves", (event) => growCurves(JSON.parse(event.data)));

// --- samples

const completions = element("completions");
const filters = ["step", "verdict", "text"];
let numSearches = 0;

async function search(start) {
  const number = ++numSearches;
  const fields = Object.fromEntries(filters.map((name) => [name, element("filter-" + name).value]));
  element("count").textContent = "looking";
  try {
    const html = await fetchText("samples", { ...fields, start });
    if (number !== numSearches) return;  // the filters have changed meanwhile
    completions.innerHTML = html;
  } catch (error) {
    showError(completions, error);
  }
  element("count").textContent = "";
}

let typing;
for (const name of filters) {
  element("filter-" + name).addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(search, 300, 0);
  });
}
element("refresh").addEventListener("click", () => search(0));
completions.addEventListener("click", (event) => {
  if (event.target.id === "more") search(event.target.dataset.start);
});
completions.addEventListener("toggle", async (event) => {
  const item = event.target;
  if (!item.open || item.children.length > 1) return;
  const body = document.createElement("div");
  item.append(body);
  try {
    body.innerHTML = await fetchText("sample", { step: item.dataset.step, index: item.dataset.index });
  } catch (error) {
    showError(body, error);
  }
}, true);
search(0);

// --- logs

async function readLog(item) {
  const text = item.querySelector("pre");
  const isAtEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
  try {
    const tail = await fetchText("log", { name: item.dataset.log });
    if (tail !== text.textContent) text.textContent = tail;
  } catch (error) {
    text.textContent = String(error.message || error);
  }
  if (isAtEnd) text.scrollTop = text.scrollHeight;
}

element("logs").addEventListener("toggle", (event) => event.target.open && readLog(event.target), true);
setInterval(() => {
  if (document.hidden) return;
  for (const item of document.querySelectorAll(".log[open]")) readLog(item);
}, 3000);

// --- a run that hangs

element("look").addEventListener("click", async () => {
  element("look").disabled = true;
  element("look").textContent = "looking";
  try {
    element("hang").innerHTML = await fetchText("stacks", {});
  } catch (error) {
    showError(element("hang"), error);
  }
  element("look").textContent = "look at the stacks";
  element("look").disabled = false;
});

// --- the plotting library, megabytes, once the rest of the page can be read

const library = document.createElement("script");
library.nonce = document.currentScript.nonce;
library.src = address("plotly.js", {});
library.addEventListener("load", watchPlots);
requestAnimationFrame(() => setTimeout(() => document.head.append(library)));
