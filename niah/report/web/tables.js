// Tables that a screen reader can read: a caption, and heads of columns and rows.

/** `head` are the columns' names and `rows` lists of cells, of which the first is the row's name. */
function tableOf(caption, head, rows) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption },
    el("table", { class: "data" }, el("caption", {}, el("span", {}, caption)),
      el("thead", {}, el("tr", {}, head.map((name) => el("th", { scope: "col" }, name)))),
      el("tbody", {}, rows.map(([name, ...cells]) => el("tr", {}, el("th", { scope: "row" }, name), cells.map((cell) => el("td", {}, cell)))))));
}

function lengthLabel(data, length) {
  return length === null ? "none" : data.length_labels[data.lengths.indexOf(length)];
}

const COUNTS = ["errors", "refused", "cut", "truncated", "overflow", "missing"];

/** All trials of each series, whatever the filter. */
function overallOf(data) {
  const [enough, strict] = data.thresholds, counts = COUNTS.filter((name) => data.series.some((one) => one.summary[name]));
  const rows = data.series.map(({ name, summary }) => [
    name, recallLabel(summary.recall, 3), intervalLabel(summary.low, summary.high, 3), number(summary.trials), ...counts.map((each) => number(summary[each] ?? 0)),
    lengthLabel(data, summary.effective_length), lengthLabel(data, summary.effective_length_95), lengthLabel(data, summary.effective_length_worst_depth),
  ]);
  const head = ["model", "recall", "95% interval", "trials", ...counts, "effective length", `at ${strict}`, "worst depth"];
  const notes = "All trials. The interval is clustered by text and needle. Effective length: the largest up to which the lower bound, "
    + `pooled over depths, reaches ${enough}, and ${strict}; for the worst depth ${enough}.`;
  return [tableOf(notes, head, rows), ...data.warnings.map((warning) => el("p", { class: "warning" }, warning))];
}

function isFiltered(filter) {
  return Object.values(filter).some(Boolean);
}

function filterLabel(filter) {
  return Object.entries(filter).filter(([, value]) => value).map(([name, value]) => `${name} ${value}`).join(", ");
}

/** The chosen trials of each series, while there is a filter. */
function selectionOf(data, filter, pooled) {
  if (!isFiltered(filter)) return [];
  const shown = data.series.map((series, i) => [series, pooled[i]]).filter(([series]) => !filter.cue || series.cue === filter.cue);
  const share = filter.outcome ? `share ${filter.outcome}` : "recall", of = filter.outcome ? "asked" : "trials";
  const rows = shown.map(([{ name }, tally]) => [name, recallLabel(tally.share, 3), intervalLabel(tally.low, tally.high, 3), number(tally.of), lostLabel(tally.lost) || "-"]);
  const caption = `Chosen: ${filterLabel(filter)}. The interval is Wilson's, which takes these trials as independent.`;
  return [tableOf(caption, ["model", share, "95% interval", of, "not scored"], rows)];
}

const GROUPS = { corpus: "By corpus", needle: "By needle", length: "By length", depth: "By depth", cue: "By cue" };

function breakdownsOf(data) {
  return Object.entries(GROUPS).filter(([by]) => data.tables[by]).map(([by, title]) => {
    const { groups, series } = data.tables[by];
    const told = (one) => (one === null ? "-" : `${recallLabel(one[1], 3)} (${intervalLabel(one[2], one[3])}), n=${number(one[0])}${one[4] ? `, ${one[4]} not scored` : ""}`);
    const rows = groups.map((name, i) => [name, ...series.map((each) => told(each[i]))]);
    const caption = `${title}: recall of all trials, its 95% interval clustered by text and needle, and scored trials.`;
    return el("details", { "data-keep": by }, el("summary", { "data-at": `table/${by}` }, title), tableOf(caption, [by, ...data.series.map((one) => one.name)], rows));
  });
}

function costsOf(data) {
  if (!data.costs) return [];
  const rows = Object.entries(data.costs).map(([model, one]) => [model, dollarsLabel(one.dollars), number(one.answers), number(one.input_tokens), number(one.cached_tokens), number(one.output_tokens)]);
  return [el("details", { "data-keep": "cost" }, el("summary", { "data-at": "table/cost" }, "Cost and tokens"),
    tableOf("What the answers cost, at the prices known when this page was made.", ["model", "cost", "answers", "input tokens", "cached", "output tokens"], rows))];
}
