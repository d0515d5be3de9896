"use strict";
// The report page. All text from runs is set as textContent: it is never read as markup.

const PAGE_SIZE = 50;
const byId = (id) => document.getElementById(id);
let data, shown = [], page = 0, current = 0;

function make(tag, properties, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function format(value) {
  return value === null || value === undefined ? "—" : Number(value).toPrecision(4).replace(/\.?0+$/, "");
}

// ---- charts ----

function setTheme(isDark) {
  document.documentElement.classList.toggle("dark", isDark);
  for (const node of document.querySelectorAll(".plot")) Plotly.relayout(node, getColours());
}

function getColours() {
  const style = getComputedStyle(document.documentElement);
  const [ink, line] = [style.getPropertyValue("--ink"), style.getPropertyValue("--line")];
  const colours = { "font.color": ink };
  for (const axis of ["xaxis", "yaxis"]) {
    for (const key of ["gridcolor", "zerolinecolor", "linecolor"]) colours[`${axis}.${key}`] = line;
  }
  return colours;
}

// One after the other, so that the page answers in between.
async function drawCharts() {
  for (const chart of data.charts) {
    const plot = make("div", { className: "plot" });
    byId("charts").append(make("div", { className: "chart" }, make("h3", { textContent: chart.title }), plot));
    await Plotly.newPlot(plot, chart.data, chart.layout, { responsive: true, displaylogo: false, displayModeBar: false });
    await Plotly.relayout(plot, getColours());
    await new Promise((resolve) => setTimeout(resolve));
  }
}

function showFacts() {
  for (const run of data.runs) {
    const list = make("dl", {});
    for (const [name, value] of Object.entries(run.facts)) {
      list.append(make("dt", { textContent: name }), make("dd", { textContent: value }));
    }
    byId("facts").append(make("div", { className: "run" }, make("h3", { textContent: run.name }), list));
  }
}

// ---- rollouts ----

function fillSelect(id, names, all) {
  byId(id).append(make("option", { value: "", textContent: all }),
    ...names.map(([value, text]) => make("option", { value, textContent: text })));
}

function prepareGroups() {
  for (const group of data.groups) {
    group.best = Math.max(...group.totals);
    group.worst = Math.min(...group.totals);
    group.mean = group.totals.reduce((sum, value) => sum + value, 0) / group.totals.length;
  }
}

const ORDERS = {
  "step": (a, b) => a.step - b.step,
  "step-down": (a, b) => b.step - a.step,
  "spread": (a, b) => b.spread - a.spread,
  "best": (a, b) => b.best - a.best,
  "worst": (a, b) => a.worst - b.worst,
  "mean": (a, b) => b.mean - a.mean,
};

function matches(group, words) {
  if (!words) return true;
  group.haystack ??= [...group.texts, ...group.images, group.problem, group.solution, group.id].join("\n").toLowerCase();
  return group.haystack.includes(words);
}

function applyFilters() {
  const words = byId("search").value.toLowerCase();
  const [run, dataset] = [byId("run").value, byId("dataset").value];
  const from = byId("from").value === "" ? -Infinity : Number(byId("from").value);
  const to = byId("to").value === "" ? Infinity : Number(byId("to").value);
  shown = data.groups.filter((group) => (run === "" || String(group.run) === run) &&
    (dataset === "" || group.dataset === dataset) && group.step >= from && group.step <= to && matches(group, words));
  shown.sort(ORDERS[byId("sort").value]);
  showPage(0);
}

function showPage(number) {
  const numPages = Math.max(1, Math.ceil(shown.length / PAGE_SIZE));
  page = Math.min(Math.max(0, number), numPages - 1);
  byId("page").textContent = `page ${page + 1} of ${numPages}, ${shown.length} groups`;
  byId("previous").disabled = page === 0;
  byId("next").disabled = page === numPages - 1;
  byId("list").replaceChildren(...shown.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE).map(buildEntry));
  showGroup(page * PAGE_SIZE);
}

function buildEntry(group, offset) {
  const picture = data.thumbnails[group.images[0]];
  const name = (group.images[0] ?? group.problem ?? "").split("/").pop();
  const text = make("span", {}, make("b", { textContent: `step ${group.step} ` }), name.slice(0, 40), make("br", {}),
    `mean ${format(group.mean)}, spread ${format(group.spread)}`);
  const button = make("button", { type: "button" }, picture ? make("img", { src: picture, alt: "" }) : null, text);
  button.addEventListener("click", () => showGroup(page * PAGE_SIZE + offset));
  return make("li", {}, button);
}

function markWords(parent, text, words) {
  if (!words) return parent.append(text);
  const lower = text.toLowerCase();
  let start = 0;
  for (let at = lower.indexOf(words); at >= 0; at = lower.indexOf(words, start)) {
    parent.append(text.slice(start, at), make("mark", { textContent: text.slice(at, at + words.length) }));
    start = at + words.length;
  }
  parent.append(text.slice(start));
}

// The parts of a completion: what lies between think tags is pale, what lies between answer tags is bold.
function buildText(text) {
  const words = byId("search").value.toLowerCase();
  const node = make("pre", {});
  let style = null;
  for (const piece of text.split(/(<\/?(?:think|answer)>)/)) {
    const tag = /^<(\/?)(think|answer)>$/.exec(piece);
    if (tag) style = tag[1] ? null : tag[2];
    const span = make("span", { className: style ?? "" });
    markWords(span, piece, words);
    node.append(span);
  }
  return node;
}

function buildCard(group, g) {
  const advantage = group.advantages[g];
  const card = make("div", { className: "card" });
  if (group.spread > 0 && group.totals[g] === group.best) card.classList.add("best");
  if (group.spread > 0 && group.totals[g] === group.worst) card.classList.add("worst");
  const sign = make("span", { className: advantage >= 0 ? "up" : "down", textContent: `advantage ${format(advantage)}` });
  const rewards = make("div", { className: "rewards" });
  for (const [name, values] of Object.entries(group.rewards)) {
    rewards.append(make("span", { textContent: `${name.replace(/_reward$/, "")} ${format(values[g])}` }));
  }
  const end = group.ends[g] === "stop" ? null : make("span", { textContent: `ended by ${group.ends[g]}` });
  card.append(make("header", {}, make("b", { textContent: `reward ${format(group.totals[g])}` }), end, sign),
    buildText(group.texts[g]), rewards);
  return card;
}

function showGroup(index) {
  const group = shown[index];
  current = index;
  byId("group").replaceChildren();
  [...byId("list").children].forEach((item, offset) => {
    item.firstChild.setAttribute("aria-current", String(page * PAGE_SIZE + offset === index));
  });
  if (!group) return byId("group").append("Nothing matches.");
  const pictures = group.images.map((path) => data.thumbnails[path]
    ? make("img", { src: data.thumbnails[path], alt: path, title: path })
    : make("span", { className: "note", textContent: path }));
  const run = data.runs.length > 1 ? `${data.runs[group.run].name}, ` : "";
  const label = group.mos === null ? `solution ${group.solution}` : `MOS ${format(group.mos)}`;
  byId("group").append(
    make("h3", { textContent: `${run}step ${group.step}, ${group.dataset ?? ""} ${group.id ?? ""}` }),
    make("div", { className: "pictures" }, ...pictures),
    make("details", {}, make("summary", { textContent: "question" }),
      make("div", { className: "plain", textContent: group.problem })),
    make("div", { className: "plain", textContent: label }),
    make("div", { className: "cards" }, ...group.texts.map((_, g) => buildCard(group, g))));
}

function moveTo(index) {
  if (index < 0 || index >= shown.length) return;
  const wanted = Math.floor(index / PAGE_SIZE);
  if (wanted !== page) showPage(wanted);
  showGroup(index);
  byId("list").children[index - page * PAGE_SIZE].scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const isTyping = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "Escape" && isTyping) return event.target.blur();
  if (isTyping) return;
  const actions = { j: () => moveTo(current + 1), k: () => moveTo(current - 1), n: () => showPage(page + 1),
    p: () => showPage(page - 1), "/": () => byId("search").focus() };
  if (actions[event.key]) {
    event.preventDefault();
    actions[event.key]();
  }
}

function saySample() {
  const parts = data.runs.filter((run) => run.shown < run.groups).map((run) =>
    `${run.name}: ${run.shown.toLocaleString("en")} of ${run.groups.toLocaleString("en")} groups, evenly drawn over the run`);
  const total = data.runs.reduce((sum, run) => sum + run.completions, 0);
  byId("sampled").textContent = [`${total.toLocaleString("en")} completions.`, ...parts].join(" ");
}

// ---- settings ----

function showSettings() {
  const words = byId("setting").value.toLowerCase();
  const head = make("tr", {}, make("th", { textContent: "setting" }),
    ...data.runs.map((run) => make("th", { textContent: run.name })));
  const rows = [];
  for (const [name, ...values] of data.config) {
    const isDifferent = values.some((value) => value !== values[0]);
    if ((byId("different").checked && !isDifferent) || !name.toLowerCase().includes(words)) continue;
    rows.push(make("tr", { className: isDifferent ? "different" : "" }, make("td", { textContent: name }),
      ...values.map((value) => make("td", { textContent: value ?? "—" }))));
  }
  byId("settings").replaceChildren(head, ...rows);
}

// ---- watching ----

async function watch(version) {
  const response = await fetch("version", { cache: "no-store" }).catch(() => null);
  const now = response && response.ok ? await response.text() : version;
  if (version !== null && now !== version) {
    sessionStorage.setItem("report", JSON.stringify({ y: scrollY, sort: byId("sort").value, search: byId("search").value }));
    return location.reload();
  }
  setTimeout(() => watch(now), 5000);
}

function restore() {
  const state = JSON.parse(sessionStorage.getItem("report") ?? "null");
  if (!state) return;
  sessionStorage.removeItem("report");
  byId("sort").value = state.sort;
  byId("search").value = state.search;
  applyFilters();
  scrollTo(0, state.y);
}

async function main() {
  data = await unpack(byId("data").textContent);
  byId("title").textContent = data.runs.map((run) => run.name).join(", ");
  showFacts();
  prepareGroups();
  fillSelect("run", data.runs.map((run, index) => [String(index), run.name]), "all");
  fillSelect("dataset", [...new Set(data.groups.map((group) => group.dataset))].sort().map((name) => [name, name]), "all");
  saySample();
  for (const id of ["search", "from", "to"]) byId(id).addEventListener("input", applyFilters);
  for (const id of ["run", "dataset", "sort"]) byId(id).addEventListener("change", applyFilters);
  byId("previous").addEventListener("click", () => showPage(page - 1));
  byId("next").addEventListener("click", () => showPage(page + 1));
  byId("different").addEventListener("change", showSettings);
  byId("setting").addEventListener("input", showSettings);
  document.addEventListener("keydown", onKey);
  applyFilters();
  showSettings();
  byId("status").textContent = data.charts.length ? "" : "There are no metrics to draw yet.";
  setTheme(matchMedia("(prefers-color-scheme: dark)").matches);
  byId("theme").addEventListener("click", () => setTheme(!document.documentElement.classList.contains("dark")));
  restore();
  if (data.watched) watch(null);
  document.documentElement.dataset.ready = "rollouts";
  await drawCharts();
  document.documentElement.dataset.ready = "all";
}

main().catch((error) => { byId("status").textContent = `The report cannot be shown: ${error}`; throw error; });
