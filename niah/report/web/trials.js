// The trials of a cell, and one trial: the prompt around its needle, the answer, and why it scored so.

const ROWS = 100; // of a list are shown at first, and as many more each time

function idOf(data, i) {
  return `${data.series[data.trials.series[i]].name}/${data.corpora[data.trials.corpus[i]]}/${data.trials.key[i]}`;
}

function badge(outcome) {
  return el("span", { class: `badge ${outcome}` }, outcome);
}

/** The beginning of an answer, or of what is known instead. */
function beginning(data, i) {
  const answer = data.answers[data.trials.answer[i]] ?? "";
  const text = (typeof answer === "string" ? answer : answer[0]).replace(/\s+/g, " ").trim();
  return text.length > 90 ? `${text.slice(0, 89)}\u2026` : text;
}

/** The list of trials `found`; `on.open` is told the place in it that was chosen. */
function listOf(data, found, title, shown, on) {
  const t = data.trials, priced = found.some((i) => t.cost[i]);
  const head = ["needle", "corpus", "outcome", "score", "tokens", "seconds", ...(priced ? ["cost"] : []), "reshuffle", "answer"];
  const rows = found.slice(0, shown).map((i) => [
    el("button", { type: "button", class: "link", "data-at": `trial/${idOf(data, i)}`, onclick: () => on.open(i) }, needleOf(data, i)),
    data.corpora[t.corpus[i]], badge(outcomeOf(data, i)), SCORED.includes(outcomeOf(data, i)) ? recallLabel(t.value[i]) : "-", number(t.tokens[i]),
    t.seconds[i] === null ? "-" : t.seconds[i].toFixed(2), ...(priced ? [dollarsLabel(t.cost[i])] : []), t.reshuffle[i], el("span", { class: "begin" }, beginning(data, i)),
  ]);
  const more = found.length - shown;
  return [
    el("div", { class: "bar-of" }, el("h2", { id: "list-title", tabindex: -1 }, title), el("button", { type: "button", "data-at": "list/close", onclick: on.close }, "Close")),
    found.length ? tableOf(`${counted(found.length)}. A needle's name opens its trial.`, head, rows) : el("p", {}, "No trial is here."),
    more > 0 ? el("button", { type: "button", "data-at": "list/more", onclick: on.more }, `Show ${number(Math.min(more, ROWS))} of ${number(more)} more`) : null,
  ];
}

/** The needles of a trial, each in the part of the prompt that is around it. */
function promptOf(data, i) {
  const t = data.trials, needles = data.asked[t.asked[i]].needles.map((each) => data.needles[each]);
  const parts = data.prompts[t.prompt[i]];
  const title = el("h3", {}, needles.length > 1 ? "The prompt around its needles" : "The prompt around the needle");
  if (parts) {
    return [title, ...needles.map((needle, n) => el("blockquote", { class: "text" }, `\u2026 ${parts[n]?.[0] ?? ""}`, el("mark", { class: "needle" }, needle.text), `${parts[n]?.[1] ?? ""} \u2026`))];
  }
  const why = data.prompts_absent[data.corpora[t.corpus[i]]] ?? "the page holds the prompts of some trials only, those that are no hits first";
  return [title, el("p", { class: "note" }, `The text around is not here: ${why}.`), ...needles.map((needle) => el("blockquote", { class: "text" }, el("mark", { class: "needle" }, needle.text)))];
}

/** The answer with its key facts marked, and for each fact whether the scorer found it. */
function answerOf(data, i) {
  const t = data.trials, outcome = outcomeOf(data, i), answer = data.answers[t.answer[i]];
  const facts = data.asked[t.asked[i]].needles.flatMap((each) => data.needles[each].facts), found = data.found[t.found[i]];
  const title = el("h3", {}, outcome === "error" || outcome === "overflow" ? "The error" : "The answer");
  if (answer === undefined) return [title, el("p", { class: "note" }, "This answer is not in the page, which keeps within a size: it is in trials.jsonl.")];
  const parts = typeof answer === "string" ? [answer] : [answer[0], answer[2]], seen = new Set();
  const shown = parts.map((part) => {
    const places = found ? factsIn(part, facts.map((fact) => fact.slice(1))).filter(([, , fact]) => found.length !== facts.length || found[fact] === "1") : [];
    for (const [, , fact] of places) seen.add(fact);
    return marked(part, places);
  });
  if (shown.length > 1) shown.splice(1, 0, el("span", { class: "note" }, ` [${number(answer[1])} characters are left out here] `));
  const box = el("blockquote", { class: "text answer", tabindex: 0 }, answer === "" ? el("span", { class: "note" }, "(empty)") : shown.flat());
  if (!facts.length) return [title, box];
  const fact = ([name], n) => {
    const there = found.length === facts.length ? found[n] === "1" : null;
    const word = there === null ? "not scored one by one" : there ? (seen.has(n) ? "found" : "found, in other words or in what is left out") : "not found";
    return el("li", { class: there === null ? "" : there ? "found" : "lacking" }, `${name}: ${word}`);
  };
  return [title, box, el("h3", {}, "Key facts"), el("ul", { class: "facts" }, facts.map(fact))];
}

function numbersOf(data, i) {
  const t = data.trials, outcome = outcomeOf(data, i), scored = SCORED.includes(outcome);
  const pairs = [
    ["outcome", badge(outcome)], ["score", scored ? recallLabel(t.value[i]) : "not scored"], ["why", data.whys[t.why[i]] || "-"],
    ["corpus", data.corpora[t.corpus[i]]], ["reshuffle", t.reshuffle[i]], ["depth reached", `${(100 * t.actual[i]).toFixed(1)}%`],
    ["prompt tokens", `${number(t.tokens[i])} planned, ${t.input[i] === null ? "none" : number(t.input[i])} reported${t.cached[i] ? `, ${number(t.cached[i])} from a cache` : ""}`],
    ["answer tokens", number(t.output[i])], ["seconds", t.seconds[i] === null ? "-" : t.seconds[i].toFixed(2)], ["cost", t.seconds[i] === null ? "-" : dollarsLabel(t.cost[i])],
    ["ended", data.stops[t.stop[i]] || "-"], ["served as", data.served[t.served[i]] || "-"], ["cue", data.series[t.series[i]].cue], ["key begins", t.key[i]],
  ];
  return el("dl", {}, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** Trial `i`, one of the list `found`. */
function trialOf(data, i, found, on) {
  const t = data.trials, at = found.indexOf(i), question = data.asked[t.asked[i]].needles.map((each) => data.needles[each].question).join(" ");
  const same = ["corpus", "asked", "length", "depth", "reshuffle"], others = t.key.map((_, j) => j).filter((j) => t.series[j] !== t.series[i] && same.every((name) => t[name][j] === t[name][i]));
  const step = (name, to) => el("button", { type: "button", "data-at": `trial/${name}`, disabled: to === undefined, onclick: () => on.open(to) }, name);
  return [
    el("div", { class: "bar-of" },
      el("h2", { id: "trial-title", tabindex: -1 }, `${needleOf(data, i)}, length ${data.length_labels[t.length[i]]}, depth ${data.depth_labels[t.depth[i]]}`),
      el("span", { class: "steps" }, step("previous", found[at - 1]), step("next", at < 0 ? undefined : found[at + 1]), el("button", { type: "button", "data-at": "trial/close", onclick: on.close }, "Close"))),
    el("p", { class: "note" }, data.series[t.series[i]].name),
    others.length ? el("p", { class: "others" }, "The same needle in the same place: ", others.map((j) => el("button", { type: "button", class: "link", "data-at": `other/${idOf(data, j)}`, onclick: () => on.open(j) },
      data.series[t.series[j]].name, " ", badge(outcomeOf(data, j))))) : null,
    el("h3", {}, "The question"), el("p", {}, question || "-"),
    ...answerOf(data, i), ...promptOf(data, i), el("h3", {}, "Numbers"), numbersOf(data, i),
  ];
}
