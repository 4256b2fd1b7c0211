// The page: what is chosen and open, and a drawing of it that can be repeated with newer data without losing the reader's place.

const byId = (id) => document.getElementById(id);
const OPENS = ["list", "trial"];
const state = { filter: { corpus: "", needle: "", cue: "", outcome: "" }, cell: null, all: false, trial: null, shown: ROWS };
const drawn = new Map(); // what each part was drawn from: a part whose text would be the same is left alone
let data = null;

/** Draw a part anew if `from` is not what it was drawn from. */
function draw(id, from, make) {
  const signature = JSON.stringify(from);
  if (drawn.get(id) === signature) return;
  drawn.set(id, signature);
  const open = new Set([...byId(id).querySelectorAll("details[open]")].map((each) => each.dataset.keep));
  byId(id).replaceChildren(...make().filter(Boolean));
  for (const each of byId(id).querySelectorAll("details")) each.open = open.has(each.dataset.keep);
}

/** Where the reader is, to be found again after a drawing: what has the focus, and the part at the top of the window. */
function place() {
  const at = document.activeElement?.dataset?.at ?? document.activeElement?.id;
  const part = [...document.querySelectorAll("section:not([hidden]), figure, details")].find((each) => each.getBoundingClientRect().bottom > 0);
  return { at, id: part?.id || part?.parentElement?.id, top: part?.getBoundingClientRect().top };
}

function comeBack({ at, id, top }) {
  const focus = at && (document.querySelector(`[data-at="${CSS.escape(at)}"]`) ?? byId(at));
  if (focus && focus !== document.activeElement) focus.focus({ preventScroll: true });
  const part = id && byId(id);
  if (part && top !== undefined) window.scrollBy(0, part.getBoundingClientRect().top - top);
}

/** The number of the open trial in the present data, -1 for none. */
function openTrial() {
  return state.trial === null ? -1 : data.trials.key.findIndex((_, i) => idOf(data, i) === state.trial);
}

function listed() {
  if (state.all) return chosenTrials(data, state.filter);
  if (!state.cell) return [];
  const at = { series: data.series.findIndex((one) => one.name === state.cell.name), length: data.lengths.indexOf(state.cell.length), depth: data.depths.indexOf(state.cell.depth) };
  return at.series < 0 || at.length < 0 || at.depth < 0 ? [] : chosenTrials(data, state.filter, at);
}

function listTitle() {
  if (state.all) return isFiltered(state.filter) ? `Trials: ${filterLabel(state.filter)}` : "All trials";
  const { name, length, depth } = state.cell;
  return `${name}, length ${lengthLabel(data, length)}, depth ${data.depth_labels[data.depths.indexOf(depth)]}${isFiltered(state.filter) ? `: ${filterLabel(state.filter)}` : ""}`;
}

function show(id) {
  drawAll();
  byId(`${id}-title`)?.focus({ preventScroll: true });
  byId(id).scrollIntoView({ block: "start", behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function openCell(series, length, depth) {
  Object.assign(state, { cell: { name: data.series[series].name, length: data.lengths[length], depth: data.depths[depth] }, all: false, trial: null, shown: ROWS });
  show("list");
}

function openOne(i) {
  state.trial = idOf(data, i);
  show("trial");
}

/** Close a part and go back to where it was opened. */
function close(id) {
  const back = id === "trial" ? `trial/${state.trial}` : state.all ? "all" : `cell/${state.cell?.name}/${state.cell?.length}/${state.cell?.depth}`;
  Object.assign(state, id === "trial" ? { trial: null } : { trial: null, cell: null, all: false });
  drawAll();
  document.querySelector(`[data-at="${CSS.escape(back)}"]`)?.focus();
}

/** The numbers of a cell beside it. */
function tip(cell, lines) {
  const box = byId("tip");
  box.hidden = !cell;
  if (!cell) return;
  box.replaceChildren(...lines.map((line, i) => el(i === 1 ? "strong" : "div", {}, line)));
  const at = cell.getBoundingClientRect(), { width, height } = box.getBoundingClientRect();
  box.style.left = `${Math.max(4, Math.min(at.left + at.width / 2 - width / 2, document.documentElement.clientWidth - width - 4))}px`;
  box.style.top = `${at.top > height + 8 ? at.top - height - 6 : at.bottom + 6}px`;
}

/** The filters that have something to choose from. */
function filtersOf() {
  const outcomes = new Set(data.trials.outcome.map((_, i) => outcomeOf(data, i)));
  const choices = { corpus: [...data.corpora], needle: data.asked.map((one) => one.label), cue: data.series.map((one) => one.cue), outcome: [...data.outcomes, "unscored"].filter((each) => outcomes.has(each)) };
  const choose = (name) => (event) => {
    state.filter[name] = event.target.value;
    state.shown = ROWS;
    drawAll();
  };
  const controls = Object.entries(choices).map(([name, values]) => {
    const each = [...new Set(values)].sort();
    if (state.filter[name] && !each.includes(state.filter[name])) state.filter[name] = "";
    if (each.length < 2) return null;
    const select = el("select", { id: `filter-${name}`, onchange: choose(name) }, el("option", { value: "" }, "all"), each.map((value) => {
      const option = el("option", {}, value);
      option.value = value; // as it is, whatever is shown of it
      return option;
    }));
    select.value = state.filter[name];
    return el("label", {}, name, select);
  });
  const clear = () => {
    Object.assign(state.filter, { corpus: "", needle: "", cue: "", outcome: "" });
    for (const select of byId("filters").querySelectorAll("select")) select.value = "";
    drawAll();
  };
  const all = () => {
    Object.assign(state, { all: true, cell: null, trial: null, shown: ROWS });
    show("list");
  };
  return [...controls, el("button", { type: "button", "data-at": "clear", onclick: clear }, "Clear"), el("button", { type: "button", "data-at": "all", onclick: all }, "List trials")];
}

function drawPanels(cells, pooled) {
  const on = { open: openCell, tip }, shown = data.series.map((_, i) => i).filter((i) => !state.filter.cue || data.series[i].cue === state.filter.cue);
  const from = [state.filter, data.series.map((one) => one.name), data.length_labels, data.depth_labels, cells.map((each) => [...each])];
  draw("panels", from, () => shown.map((i) => panelOf(data, state.filter, i, cells[i], pooled[i], on)));
  draw("legend", from, () => [legendOf(data, state.filter, shown.map((i) => cells[i]))]);
}

function drawList() {
  const found = listed(), i = openTrial();
  byId("list").hidden = !state.all && !state.cell;
  if (!byId("list").hidden) {
    const on = { open: openOne, close: () => close("list"), more: () => { state.shown += ROWS; drawAll(); } };
    draw("list", [listTitle(), state.shown, found.map((each) => [idOf(data, each), outcomeOf(data, each), data.trials.value[each], beginning(data, each), needleOf(data, each)])],
      () => listOf(data, found, listTitle(), state.shown, on));
  }
  byId("trial").hidden = i < 0;
  if (i >= 0) {
    const at = found.indexOf(i), columns = Object.entries(data.trials).map(([name, column]) => (["series", "corpus", "asked", "length", "depth", "stop", "served", "why", "found", "answer", "prompt"].includes(name) ? null : column[i]));
    const t = data.trials, text = [data.answers[t.answer[i]], data.prompts[t.prompt[i]], data.whys[t.why[i]], data.found[t.found[i]], outcomeOf(data, i)];
    draw("trial", [state.trial, columns, text, at, found.length], () => trialOf(data, i, found, { open: openOne, close: () => close("trial") }));
  } else drawn.delete("trial");
}

function drawAll() {
  const was = place(), filter = state.filter;
  byId("main").hidden = false;
  draw("facts", data.title, () => data.title.map(([name, value]) => el("span", {}, el("b", {}, `${name} `), value)));
  draw("filters", [data.corpora, data.asked.map((one) => one.label), data.series.map((one) => one.cue), [...new Set(data.trials.outcome)].sort()], filtersOf);
  draw("overall", [data.series, data.length_labels, data.warnings], () => overallOf(data));
  const cells = cellsOf(data, filter), pooled = pooledOf(data, filter);
  draw("selection", [filter, pooled], () => selectionOf(data, filter, pooled));
  drawPanels(cells, pooled);
  drawList();
  draw("tables", [data.tables, data.costs, data.series.map((one) => one.name)], () => [...breakdownsOf(data), ...costsOf(data)]);
  comeBack(was);
}

function tell(text) {
  if (byId("news").textContent !== visible(text)) byId("news").textContent = visible(text);
}

/** The data that the file carries. */
async function carried(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).json();
}

function progress() {
  const planned = data.series.reduce((sum, one) => sum + one.summary.missing, 0);
  const asked = data.trials.series.length;
  return asked ? `${counted(asked)}, ${planned ? `${number(planned)} still missing` : "none is missing"}` : "Waiting for the first answer.";
}

/** Ask the server for what is new, again and again; the longer that takes, the more seldom. */
async function follow() {
  let have = "", wait = 0;
  for (;;) {
    await new Promise((done) => setTimeout(done, wait));
    const started = performance.now();
    try {
      const reply = await fetch(`data?have=${encodeURIComponent(have)}`, { cache: "no-store" });
      if (reply.status === 200) {
        const news = await reply.json();
        if (news.error) tell(news.error);
        else {
          data = news;
          drawAll();
          tell(progress());
          document.title = `${progress()} - niah`;
        }
        have = reply.headers.get("ETag") ?? "";
      }
    } catch (error) {
      tell(`The server of this page does not answer any more${data ? "; what is shown is the last that it told" : ""}.`);
    }
    wait = Math.max(500, 4 * (performance.now() - started));
  }
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const part = byId("tip").hidden ? OPENS.toReversed().find((id) => !byId(id).hidden) : null;
  tip(null);
  if (part) close(part);
});
window.addEventListener("scroll", () => tip(null), { passive: true });
byId("theme").addEventListener("change", (event) => { document.documentElement.dataset.theme = event.target.value; });

const text = byId("data").textContent.trim();
if (text) {
  data = await carried(text);
  drawAll();
} else {
  tell("Waiting for the first answer.");
  follow();
}
