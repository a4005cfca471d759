"use strict";
// Journals hold hostile text. It enters the page as text nodes and values only, never as HTML.

const ROWS_AT_ONCE = 200; // more of them as the reader scrolls
const NUMBERS = new Set(
  ["length", "score", "turns", "calls", "tokens_root", "tokens_sub", "seconds", "errors"]);
const HEADS = {
  name: "run", arm: "arm", family: "family", length: "length", score: "score",
  stop: "stop reason", dropped: "filter", turns: "turns", calls: "calls",
  tokens_root: "root tokens", tokens_sub: "sub tokens", seconds: "seconds", errors: "errors",
  question: "question", answer: "answer",
};
const SEARCHED =
  ["name", "arm", "family", "stop", "dropped", "question", "answer", "words"];

const byId = (id) => document.getElementById(id);
const commas = (number) => number.toLocaleString("en-US");
const blank = (value) => value === null || value === undefined || value === "";

/** An element with properties and children; strings among the children become text. */
function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

const runs = readTable();
const shownColumns = Object.keys(HEADS).filter(
  (key) => runs.some((run) => key === "dropped" ? run[key] !== null : !blank(run[key])));
const lines = new Map(); // index of a run -> its row, once made
const sorted = { key: "name", down: false };
let matching = runs;
let drawn = 0;
let selected = 0; // position in `matching`
let marked = null; // its row

function readTable() {
  const { columns, rows } = JSON.parse(byId("table").textContent);
  return rows.map((values, index) => {
    const run = { index };
    columns.forEach((key, i) => { run[key] = values[i]; });
    run.text = SEARCHED.map((key) => run[key] ?? "").join("\n").toLowerCase();
    return run;
  });
}

function shownValue(run, key) {
  const value = run[key];
  if (key === "dropped") return value === null ? "" : value || "kept";
  if (blank(value)) return "";
  if (key === "score") return value.toFixed(2);
  if (key === "seconds") return value.toFixed(1);
  return NUMBERS.has(key) ? commas(value) : value;
}

function line(run) {
  if (!lines.has(run.index)) {
    const cells = shownColumns.map((key) => {
      const text = shownValue(run, key);
      const long = key === "question" || key === "answer";
      const className = NUMBERS.has(key) ? "number" : long ? "long" : mood(key, run[key]);
      const link = key === "name" && element("a", { href: hashOf(run) }, text);
      return element("td", { className, title: long ? text : "" }, link || text);
    });
    const made = element("tr", {}, ...cells);
    made.addEventListener("click", () => { location.hash = hashOf(run); });
    lines.set(run.index, made);
  }
  return lines.get(run.index);
}

function mood(key, value) {
  if (key === "stop") return value === "answered" ? "" : "bad";
  return key === "dropped" && value ? "bad" : "";
}

/** Everything after a change of filters or order. */
function refresh() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const picked = ["arm", "family", "stop"].filter((key) => byId(key).value !== "any");
  const dropped = byId("dropped").value;
  const least = byId("least").valueAsNumber, most = byId("most").valueAsNumber;
  matching = runs.filter((run) =>
    words.every((word) => run.text.includes(word)) &&
    picked.every((key) => "=" + (run[key] ?? "") === byId(key).value) &&
    (dropped === "any" || passes(run.dropped, dropped)) &&
    (Number.isNaN(least) || (run.score !== null && run.score >= least)) &&
    (Number.isNaN(most) || (run.score !== null && run.score <= most)));
  matching.sort(compare);
  drawn = 0;
  byId("rows").replaceChildren();
  draw();
  byId("list").scrollTop = 0;
  mark(Math.max(0, matching.indexOf(open)));
  showTotals();
}

function passes(value, wanted) {
  if (wanted === "kept") return value === "";
  return wanted === "dropped" ? !blank(value) : "=" + value === wanted;
}

function compare(one, other) {
  const a = one[sorted.key], b = other[sorted.key];
  const order = blank(a) || blank(b)
    ? blank(a) - blank(b) // what has no value stands last in either direction
    : (a < b ? -1 : a > b ? 1 : 0) * (sorted.down ? -1 : 1);
  return order || one.index - other.index;
}

function draw() {
  const next = matching.slice(drawn, drawn + ROWS_AT_ONCE);
  byId("rows").append(...next.map(line));
  drawn += next.length;
  const left = matching.length - drawn;
  byId("more").textContent = left ? `${commas(left)} more` : matching.length ? "" : "No run fits.";
}

function mark(position) {
  selected = Math.min(Math.max(0, position), Math.max(0, matching.length - 1));
  marked?.classList.remove("selected");
  marked = matching.length ? line(matching[selected]) : null;
  marked?.classList.add("selected");
}

/** Mark a row and bring it into view. */
function select(position) {
  mark(position);
  while (selected >= drawn && drawn < matching.length) draw();
  marked?.scrollIntoView({ block: "nearest" });
}

function showTotals() {
  const sum = (key) => matching.reduce((total, run) => total + (run[key] ?? 0), 0);
  const count = (test) => matching.filter(test).length;
  const all = matching.length === runs.length ? "" : ` of ${commas(runs.length)}`;
  const scored = count((run) => run.score !== null);
  const judged = count((run) => run.dropped !== null);
  const facts = [];
  if (scored) facts.push(`mean score ${(sum("score") / scored).toFixed(3)} of ${commas(scored)}`);
  if (judged) {
    const kept = count((run) => run.dropped === "");
    facts.push(`kept ${commas(kept)}, dropped ${commas(judged - kept)}`);
  }
  facts.push(`tokens ${commas(sum("tokens_root"))} root, ${commas(sum("tokens_sub"))} sub`);
  const unfinished = count((run) => run.stop === "unfinished");
  if (unfinished) facts.push(`unfinished ${commas(unfinished)}`);
  byId("totals").replaceChildren(
    `${commas(matching.length)}${all} run${runs.length === 1 ? "" : "s"}`,
    ...facts.map((fact) => element("span", {}, fact)));
}

function makeHeads() {
  for (const key of shownColumns) {
    const button = element("button", { type: "button" }, HEADS[key]);
    const head = element("th", { className: NUMBERS.has(key) ? "number" : "" }, button);
    head.dataset.key = key;
    button.addEventListener("click", () => {
      // The largest number is what is looked for first, and the first name.
      sorted.down = sorted.key === key ? !sorted.down : NUMBERS.has(key);
      sorted.key = key;
      markHeads();
      refresh();
    });
    byId("heads").append(head);
  }
  markHeads();
}

function markHeads() {
  for (const head of byId("heads").children) {
    const own = head.dataset.key === sorted.key;
    head.setAttribute("aria-sort", own ? (sorted.down ? "descending" : "ascending") : "none");
    const arrow = own ? (sorted.down ? " \u25be" : " \u25b4") : "";
    head.firstChild.textContent = HEADS[head.dataset.key] + arrow;
  }
}

function makeFilters() {
  for (const key of ["arm", "family", "stop"]) {
    const options = [["any", `any ${HEADS[key]}`]];
    for (const [value, count] of counts(key)) {
      options.push(["=" + value, `${value || "(none)"} (${commas(count)})`]);
    }
    fill(byId(key), options);
  }
  const rules = counts("dropped").filter(([value]) => value);
  fill(byId("dropped"), [
    ["any", "kept or dropped"], ["kept", "kept"], ["dropped", "dropped"],
    ...rules.map(([rule, count]) => ["=" + rule, `dropped: ${rule} (${commas(count)})`]),
  ]);
  byId("dropped").title = "Kept: no rule dropped it; beyond a family's share it is in no dataset";
  for (const key of ["arm", "family", "dropped"]) byId(key).hidden = !shownColumns.includes(key);
  for (const key of ["least", "most"]) {
    byId(key).parentElement.hidden = !shownColumns.includes("score");
  }
  byId("filters").addEventListener("input", refresh);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  // The fields are empty only after the event.
  byId("filters").addEventListener("reset", () => setTimeout(refresh));
}

function counts(key) {
  const found = new Map();
  for (const run of runs) found.set(run[key] ?? "", (found.get(run[key] ?? "") ?? 0) + 1);
  return [...found].sort(([a], [b]) => (a < b ? -1 : 1));
}

function fill(select, options) {
  select.append(...options.map(([value, text]) => element("option", { value }, text)));
}
