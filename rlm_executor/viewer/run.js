
// The run that is open, unpacked from its block of the page. The address tells which one it is.

const CALLS_AT_ONCE = 100;
const PROMPT_CHARS = 90; // of a folded sub-call

const panel = byId("run");
let open = null; // the row of the run that is shown

const hashOf = (run) => "#" + encodeURIComponent(run.name);
const textOf = (piece) => (typeof piece === "string" ? piece : piece?.text ?? "");
const sizeOf = (piece) => (typeof piece === "string" ? piece.length : piece?.of ?? 0);
const plural = (count, word) => `${commas(count)} ${word}${count === 1 ? "" : "s"}`;
const joined = (...facts) => facts.filter(Boolean).join(" \u00b7 ");

function tokens(usage) {
  if (!usage) return "";
  const cached = usage.cached_calls && usage.cached_calls === usage.calls ? ", cached" : "";
  return `${commas(usage.prompt_tokens)} tokens in, ${commas(usage.completion_tokens)} out${cached}`;
}

const time = (seconds) =>
  blank(seconds) ? "" : `${seconds < 1 ? seconds.toFixed(3) : seconds.toFixed(1)} s`;

async function unpack(index) {
  if (document.readyState === "loading") {
    await new Promise((done) => document.addEventListener("DOMContentLoaded", done));
  }
  const packed = atob(byId(`run${index}`).textContent);
  const bytes = Uint8Array.from(packed, (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** Show the run that the address names; none if there is no such run. */
async function follow() {
  let name = "";
  try {
    name = decodeURIComponent(location.hash.slice(1));
  } catch { /* a broken address names no run */ }
  const row = runs.find((run) => run.name === name) ?? null;
  open = row;
  if (!row) {
    panel.hidden = true;
    panel.replaceChildren();
    return;
  }
  let shown;
  try {
    shown = wholeRun(await unpack(row.index), row);
  } catch (error) { // of a browser from before 2023
    shown = [note(`This run cannot be shown here: ${error}`)];
  }
  if (open !== row) return; // the reader has gone on
  const close = element("button", { className: "close", type: "button" }, "Close");
  close.addEventListener("click", closeRun);
  panel.replaceChildren(close, element("h2", {}, row.name), ...shown);
  panel.hidden = false;
  panel.scrollTop = 0;
  panel.focus({ preventScroll: true });
  const position = matching.indexOf(row);
  if (position >= 0) select(position); // the table has become narrower
}

function closeRun() {
  location.hash = "";
}

/** What there is of a run: facts, question, answer, turns. Runs below it come the same way. */
function wholeRun(run, row) {
  if (run.question === undefined) return [note("The journal ends before its first line does.")];
  const shown = [facts(run, row), element("h3", {}, "Question"), ...text(run.question, "prose")];
  shown.push(element("h3", {}, "Answer"));
  if (run.end) {
    const none = !textOf(run.end.answer);
    shown.push(...(none ? [note("There is none.")] : text(run.end.answer)));
  } else {
    shown.push(note("Unfinished: the journal ends in the middle of the run."));
  }
  run.turns.forEach((turn, index) => shown.push(oneTurn(turn, index + 1)));
  return shown;
}

function facts(run, row) {
  const { end, used } = run;
  const answered = end && joined(end.stop_reason, `answer from ${end.answer_source}`);
  const pairs = [
    ["stop", end ? answered : "unfinished"],
    ["score", row && shownValue(row, "score")],
    ["filter", row && shownValue(row, "dropped")],
    ["task", joined(run.task.id, row?.arm, row?.family, row?.length && `length ${row.length}`)],
    ["context", contextLine(run.context)],
    ["models", joined(...run.models)],
    ["dialect", joined(run.dialect, run.route && `route ${run.route}`)],
    ["root", joined(plural(run.turns.length, "turn"), tokens(used.root))],
    ["below", joined(plural(used.sub.calls, "sub-call"), tokens(used.sub))],
    ["seconds", end && end.seconds.toFixed(3)],
    ["cost", end && !blank(end.dollars) && `$${end.dollars}`],
    ["unknown", end?.unknown_calls && `${plural(end.unknown_calls, "call")} of unknown use`],
    ["sandbox", end?.posture],
  ];
  const list = element("dl", {});
  for (const [name, value] of pairs) {
    if (value) list.append(element("dt", {}, name), element("dd", {}, value));
  }
  const preview = run.context.preview || run.context.parts;
  if (!preview) return list;
  return element("div", {}, list, fold(["beginning of the context"], () => beginnings(run.context)));
}

function contextLine(context) {
  const items = context.items &&
    plural(context.items, "item") + (context.of ? ` (${context.of.join(", ")})` : "");
  const lines = context.lines && plural(context.lines, "line");
  return [context.type, plural(context.chars ?? 0, "character"), lines, items]
    .filter(Boolean).join(", ");
}

function beginnings(context) {
  const own = context.preview ? text(context.preview) : [];
  const parts = (context.parts ?? []).flatMap(
    (part) => [note(`${part.name}: ${contextLine(part)}`), ...beginnings(part)]);
  return [...own, ...parts];
}

function oneTurn(turn, number) {
  const title = turn.turn === null ? "Outside of any turn" : `Turn ${number}`;
  const landing = turn.landing && `landing after ${turn.landing}`;
  const finish = turn.finish && turn.finish !== "stop" && `ended by ${turn.finish}`;
  const told = joined(tokens(turn.usage), time(turn.seconds), landing, finish);
  const section = element("section", { className: "turn" },
    element("h3", {}, title, " ", element("span", { className: "dim" }, told)));
  if (turn.sent.length) section.append(fold([sentLine(turn)], () => sent(turn)));
  if (turn.error) section.append(...text(turn.error, "error"));
  section.append(...replyWithCells(textOf(turn.reply), turn.cells), ...cutNote(turn.reply));
  return section;
}

function sentLine(turn) {
  const characters = turn.sent.reduce((sum, message) => sum + sizeOf(message.text), 0);
  const [kept, before] = turn.kept;
  const gone = kept < before && `${commas(before - kept)} of ${commas(before)} before it left out`;
  return "sent: " + joined(
    plural(turn.sent.length, "new message"), plural(characters, "character"), gone);
}

function sent(turn) {
  return turn.sent.flatMap((message) => [note(message.role), ...text(message.text)]);
}

/** The reply with each cell at the place of its code; a cell whose code it lacks comes after. */
function replyWithCells(reply, cells) {
  const shown = [];
  let told = 0;
  for (const cell of cells) {
    const code = textOf(cell.code);
    const at = code ? reply.indexOf(code, told) : -1;
    if (at >= 0) {
      shown.push(...prose(reply.slice(told, at)));
      told = at + code.length;
    } else {
      shown.push(...prose(reply.slice(told)));
      told = reply.length;
    }
    shown.push(oneCell(cell));
  }
  return [...shown, ...prose(reply.slice(told))];
}

const prose = (string) => (string.trim() ? text(string.replace(/^\n|\n$/g, ""), "prose") : []);

function oneCell(cell) {
  const title = cell.cell === null ? "Cell that was not over" : `Cell ${cell.cell}`;
  const state = element("span", { className: cell.status === "ok" ? "dim" : "bad" },
    joined(cell.status, time(cell.seconds)));
  const box = element("div", { className: "cell" }, element("h4", {}, title, " ", state));
  if (textOf(cell.code)) box.append(...text(cell.code, "code"));
  if (cell.calls.length) box.append(callList(cell.calls));
  for (const refused of cell.refused ?? []) box.append(...text(`refused: ${refused}`, "error"));
  if (sizeOf(cell.output)) box.append(note("output"), ...text(cell.output, "output"));
  if (sizeOf(cell.error)) box.append(...text(cell.error, "error"));
  if (sizeOf(cell.answer)) {
    const label = `answer${cell.ready ? ", ready" : " so far"}, ${commas(sizeOf(cell.answer))} characters`;
    box.append(fold([label], () => text(cell.answer)));
  }
  return box;
}

function callList(calls) {
  const failed = calls.filter((call) => call.error).length;
  const below = calls.filter((call) => call.child).length;
  const used = { prompt_tokens: 0, completion_tokens: 0 };
  for (const call of calls) {
    used.prompt_tokens += call.usage?.prompt_tokens ?? 0;
    used.completion_tokens += call.usage?.completion_tokens ?? 0;
  }
  const title = joined(plural(calls.length, "sub-call"), tokens(used),
    failed && `${commas(failed)} failed`, below && `${plural(below, "run")} below`);
  return fold([title], () => {
    const box = element("div", { className: "nested" });
    addCalls(box, calls, 0);
    return [box];
  });
}

function addCalls(box, calls, from) {
  const next = calls.slice(from, from + CALLS_AT_ONCE);
  box.append(...next.map((call, index) => oneCall(call, from + index + 1)));
  const left = calls.length - from - next.length;
  if (!left) return;
  const more = element("button", { type: "button" }, `${commas(left)} more`);
  more.addEventListener("click", () => {
    more.remove();
    addCalls(box, calls, from + next.length);
  });
  box.append(more);
}

function oneCall(call, number) {
  const used = call.child ? tokens(total(call.child.used)) : tokens(call.usage);
  const told = joined(call.child && "run", call.model, used, time(call.seconds));
  const first = textOf(call.prompt).replace(/\s+/g, " ").slice(0, PROMPT_CHARS);
  const summary = [`${number}. ${first} `, element("span", { className: "dim" }, told)];
  if (call.error) summary.push(element("span", { className: "bad" }, " failed"));
  return fold(summary, () => {
    const shown = [note("prompt"), ...text(call.prompt)];
    if (call.error) shown.push(...text(call.error, "error"));
    if (sizeOf(call.reply)) shown.push(note("reply"), ...text(call.reply));
    if (call.child) shown.push(element("div", { className: "nested" }, ...wholeRun(call.child)));
    return shown;
  });
}

function total({ root, sub }) {
  return {
    prompt_tokens: root.prompt_tokens + sub.prompt_tokens,
    completion_tokens: root.completion_tokens + sub.completion_tokens,
  };
}

/** A fold whose inside is made when it is first opened. */
function fold(summary, make) {
  const details = element("details", {}, element("summary", {}, ...summary));
  details.addEventListener("toggle", () => details.append(...make()), { once: true });
  return details;
}

const text = (piece, className = "") =>
  [element("pre", { className }, textOf(piece)), ...cutNote(piece)];
const note = (string) => element("div", { className: "dim" }, string);

function cutNote(piece) {
  if (!piece || typeof piece === "string") return [];
  return [note(`${commas(piece.text.length)} of ${commas(piece.of)} characters`)];
}

function move(by) {
  select(selected + by);
  if (open && matching[selected]) location.hash = hashOf(matching[selected]);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const { key, target } = event;
  const typing = target.matches("input, select");
  if (key === "Escape") {
    if (typing) target.blur();
    else closeRun();
  } else if (key === "Enter") {
    if (target.matches("a, button, summary, select") || !matching[selected]) return;
    location.hash = hashOf(matching[selected]);
  } else if (key === "/" && !typing) {
    byId("search").focus();
    byId("search").select();
  } else if ((key === "ArrowDown" || key === "ArrowUp") && (target === byId("search") || !open)) {
    if (typing && target !== byId("search")) return;
    move(key === "ArrowDown" ? 1 : -1);
  } else if ((key === "j" || key === "k") && !typing) {
    move(key === "j" ? 1 : -1);
  } else return;
  event.preventDefault();
});

new IntersectionObserver((seen) => {
  if (seen.some((entry) => entry.isIntersecting) && drawn < matching.length) draw();
}, { root: byId("list"), rootMargin: "600px" }).observe(byId("more"));
window.addEventListener("hashchange", follow);
makeHeads();
makeFilters();
refresh();
follow();
