// Heatmaps of depth and length, a panel a series, as niah/report/heatmap.py draws them: what is not known has no colour of a recall.

const VIRIDIS = "440154 470d60 48186a 482374 472d7b 453781 424086 3e4989 3b528b 375b8d 33638d 2f6b8e 2c728e 297a8e 26828e 23898e 21918c "
  + "1f988b 1fa088 22a785 28ae80 32b67a 3fbc73 4ec36b 5ec962 70cf57 84d44b 98d83e addc30 c2df23 d8e219 ece51b fde725";
const SHARES = "f4ede6 e0b9a0 c9835c a94f22 7a2a08"; // of an outcome: no colour of a recall, for much of it is not good
const SCALES = [VIRIDIS, SHARES].map((scale) => scale.split(" ").map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16))));
const SMALL = 20; // more lengths than this leave no room for numbers in the cells

function colour(scale, share) {
  const at = share * (scale.length - 1), low = Math.min(Math.floor(at), scale.length - 2);
  return scale[low].map((value, i) => Math.round(value + (scale[low + 1][i] - value) * (at - low)));
}

function ink([red, green, blue]) {
  return (0.299 * red + 0.587 * green + 0.114 * blue) / 255 > 0.45 ? "#1a1a1a" : "#ffffff";
}

/** What is known of a cell, a line each; the first two are where it is and its number. */
function told(data, filter, tally, length, depth) {
  const lines = [`length ${data.length_labels[length]}, depth ${data.depth_labels[depth]}`];
  if (!tally || tally.share === null) {
    lines.push("no scored trial");
  } else if (filter.outcome) {
    lines.push(`${filter.outcome}: ${recallLabel(tally.share)} (${tally.counted} of ${tally.of} asked)`, `95% interval ${intervalLabel(tally.low, tally.high)}`);
  } else {
    lines.push(`recall ${recallLabel(tally.share)}`, `95% interval ${intervalLabel(tally.low, tally.high)}`, counted(tally.trials));
  }
  if (tally?.lostCount) lines.push(`not scored: ${lostLabel(tally.lost)}`);
  if (tally?.missing) lines.push(`${number(tally.missing)} missing of ${number(tally.planned)} planned`);
  return lines;
}

/** One cell of the grid. */
function cellOf(data, filter, series, tally, length, depth, on) {
  const lines = told(data, filter, tally, length, depth);
  const made = el("td", {
    role: "gridcell", tabindex: -1, "aria-label": lines.join(", "), "data-at": `cell/${data.series[series].name}/${data.lengths[length]}/${data.depths[depth]}`,
    onclick: () => on.open(series, length, depth), onfocus: (event) => on.tip(event.currentTarget, lines), onblur: () => on.tip(null),
    onpointerenter: (event) => on.tip(event.currentTarget, lines), onpointerleave: () => on.tip(null),
  });
  if (!tally || tally.share === null) {
    made.className = "empty";
    return made;
  }
  const ground = colour(SCALES[filter.outcome ? 1 : 0], tally.share);
  made.style.backgroundColor = `rgb(${ground})`;
  made.style.color = ink(ground);
  made.append(el("span", { class: "share" }, recallLabel(tally.share)));
  const band = el("span", { class: "band" }, el("i"));
  band.firstChild.style.left = `${100 * tally.low}%`;
  band.firstChild.style.right = `${100 - 100 * tally.high}%`;
  made.append(band);
  if (tally.lostCount && !filter.outcome) made.append(el("span", { class: "lost" }));
  if (tally.missing) made.append(el("span", { class: "missing" }));
  return made;
}

/** The keys of a grid: one of its cells is in the order of Tab, and the arrows move among all. */
function steer(table) {
  const rows = () => [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const go = (cell) => {
    for (const other of table.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
    cell.tabIndex = 0;
    cell.focus();
  };
  table.addEventListener("focusin", (event) => {
    for (const other of table.querySelectorAll("td[tabindex='0']")) other.tabIndex = -1;
    if (event.target.matches("td")) event.target.tabIndex = 0;
  });
  table.addEventListener("keydown", (event) => {
    const grid = rows(), row = grid.findIndex((cells) => cells.includes(event.target));
    if (row < 0) return;
    const column = grid[row].indexOf(event.target), last = grid[row].length - 1;
    const moves = {
      ArrowLeft: [row, column - 1], ArrowRight: [row, column + 1], ArrowUp: [row - 1, column], ArrowDown: [row + 1, column],
      Home: [event.ctrlKey ? 0 : row, 0], End: [event.ctrlKey ? grid.length - 1 : row, last],
    };
    if (event.key === "Enter" || event.key === " ") event.target.click();
    else if (moves[event.key]) {
      const [down, across] = moves[event.key], cell = grid[down]?.[across];
      if (cell) go(cell);
    } else return;
    event.preventDefault();
  });
}

/** A series' panel: its name, what it is all together, and the grid. */
function panelOf(data, filter, series, cells, pooled, on) {
  const places = [...cells.keys()].map((place) => place.split(",").map(Number));
  const lengths = [...new Set(places.map(([length]) => length))].sort((a, b) => a - b);
  const depths = [...new Set(places.map(([, depth]) => depth))].sort((a, b) => a - b);
  const { name } = data.series[series], id = `panel-${series}`;
  const body = el("tbody", {}, depths.map((depth) => el("tr", {},
    el("th", { scope: "row" }, data.depth_labels[depth]),
    lengths.map((length) => cellOf(data, filter, series, cells.get(`${length},${depth}`), length, depth, on)))));
  const table = el("table", { class: lengths.length > SMALL ? "grid small" : "grid", role: "grid", "aria-labelledby": id, "aria-describedby": "keys" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col", class: "corner" }, "depth"), lengths.map((length) => el("th", { scope: "col" }, data.length_labels[length])))),
    body);
  steer(table);
  const first = table.querySelector("td");
  if (first) first.tabIndex = 0;
  const of = filter.outcome ? `${filter.outcome} ${recallLabel(pooled.share, 3)} of ${number(pooled.of)} asked` : `recall ${recallLabel(pooled.share, 3)}, ${counted(pooled.trials)}`;
  return el("figure", { class: "panel" }, el("figcaption", {}, el("h3", { id }, name), el("p", {}, pooled.of ? of : "no scored trial")),
    el("div", { class: "scroll" }, table), el("p", { class: "axis" }, "context length (tokens)"));
}

/** The scale, and the marks that there are. */
function legendOf(data, filter, cells) {
  const all = cells.flatMap((each) => [...each.values()]), total = {};
  for (const tally of all) for (const [name, many] of Object.entries(tally.lost)) total[name] = (total[name] ?? 0) + many;
  const missing = all.reduce((sum, tally) => sum + tally.missing, 0);
  const bar = el("span", { class: "bar" });
  bar.style.background = `linear-gradient(to right, ${SCALES[filter.outcome ? 1 : 0].map((each) => `rgb(${each})`)})`;
  const entry = (mark, text) => el("li", {}, el("span", { class: `swatch ${mark}` }), text);
  return el("ul", { class: "legend" },
    el("li", {}, filter.outcome ? `share of trials that are ${filter.outcome}` : "recall", " 0 ", bar, " 1"),
    el("li", {}, el("span", { class: "swatch interval" }), "95% interval, from 0 at the left to 1 at the right"),
    all.some((tally) => tally.share === null) ? entry("empty", "no scored trial") : null,
    Object.keys(total).length && !filter.outcome ? entry("lost", `trials without a score, which are not counted as misses: ${lostLabel(total)}`) : null,
    missing ? entry("missing", `planned trials still missing: ${number(missing)}`) : null);
}
