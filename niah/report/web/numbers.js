// Recall and its interval for whatever trials are chosen: what niah/report/stats.py reckons for all of them.

const Z = 1.959963984540054; // 95% of a normal distribution lie within so many deviations
const LOST = { error: "errors", cut: "cut", refused: "refused", truncated: "truncated", overflow: "overflow" };
const SCORED = ["hit", "partial", "miss"];

/** Wilson's interval of `hits` out of `trials`, at least one. */
function wilson(hits, trials) {
  const share = hits / trials, weight = Z * Z / trials;
  const middle = (share + weight / 2) / (1 + weight);
  const half = Z * Math.sqrt(share * (1 - share) / trials + weight / trials / 4) / (1 + weight);
  return [hits === 0 ? 0 : Math.max(0, middle - half), hits === trials ? 1 : Math.min(1, middle + half)];
}

/** To a whole number, halves to the even one, as in Python. */
function whole(value) {
  const up = Math.round(value);
  return Math.abs(value % 1) === 0.5 && up % 2 ? up - 1 : up;
}

function outcomeOf(data, i) {
  return data.outcomes[data.trials.outcome[i]] ?? "unscored";
}

function needleOf(data, i) {
  return data.asked[data.trials.asked[i]].label;
}

/** Whether a trial passes the filter, whatever its outcome. */
function passes(data, filter, i) {
  const trials = data.trials;
  return (!filter.corpus || data.corpora[trials.corpus[i]] === filter.corpus)
    && (!filter.needle || needleOf(data, i) === filter.needle)
    && (!filter.cue || data.series[trials.series[i]].cue === filter.cue);
}

/** Numbers of the trials that pass the filter, their outcome too, in their order; `at` narrows to a series, a length and a depth. */
function chosenTrials(data, filter, at = {}) {
  const { series, length, depth } = data.trials, found = [];
  for (let i = 0; i < series.length; i++) {
    if ((at.series ?? series[i]) === series[i] && (at.length ?? length[i]) === length[i] && (at.depth ?? depth[i]) === depth[i]
      && passes(data, filter, i) && (!filter.outcome || outcomeOf(data, i) === filter.outcome)) found.push(i);
  }
  return found;
}

function emptyTally() {
  return { asked: 0, trials: 0, points: 0, lost: {}, unscored: 0, counted: 0, planned: null };
}

function count(tally, data, filter, i) {
  const outcome = outcomeOf(data, i);
  tally.asked += 1;
  if (outcome === filter.outcome) tally.counted += 1;
  if (SCORED.includes(outcome)) {
    tally.trials += 1;
    tally.points += data.trials.value[i];
  } else if (outcome === "unscored") {
    tally.unscored += 1;
  } else {
    tally.lost[LOST[outcome]] = (tally.lost[LOST[outcome]] ?? 0) + 1;
  }
}

/** Adds what follows from the counts. With an outcome in the filter the share is that of the outcome among all trials asked. */
function finish(tally, filter) {
  const of = filter.outcome ? tally.asked : tally.trials;
  const points = filter.outcome ? tally.counted : tally.points;
  tally.of = of;
  tally.share = of ? points / of : null;
  [tally.low, tally.high] = of ? wilson(whole(points), of) : [null, null];
  tally.lostCount = Object.values(tally.lost).reduce((sum, each) => sum + each, 0);
  tally.missing = tally.planned === null ? 0 : Math.max(0, tally.planned - tally.trials - tally.lostCount);
  return tally;
}

/** For each series its cells, by "length,depth" in numbers of data.lengths and data.depths. */
function cellsOf(data, filter) {
  const known = !filter.corpus && !filter.needle, made = data.series.map(() => new Map());
  for (const [series, length, depth, planned] of data.plan) {
    const tally = emptyTally();
    tally.planned = known ? planned : null;
    made[series].set(`${length},${depth}`, tally);
  }
  const { series, length, depth } = data.trials;
  for (let i = 0; i < series.length; i++) {
    if (passes(data, filter, i)) count(made[series[i]].get(`${length[i]},${depth[i]}`), data, filter, i);
  }
  for (const cells of made) {
    for (const tally of cells.values()) {
      if (!known && tally.unscored) tally.planned = tally.asked;
      finish(tally, filter);
    }
  }
  return made;
}

/** The chosen trials of each series, pooled. */
function pooledOf(data, filter) {
  const made = data.series.map(emptyTally);
  data.trials.series.forEach((series, i) => {
    if (passes(data, filter, i)) count(made[series], data, filter, i);
  });
  return made.map((tally) => finish(tally, filter));
}

/** As niah/report/labels.py: 1.00 means that nothing was missed, and 0.00 that all was. */
function recallLabel(recall, decimals = 2) {
  if (recall === null) return "-";
  const tie = Math.abs(recall * 2 ** (decimals + 1) % 2) === 1; // only these are halves to the last bit, and Python takes the even neighbour
  const label = (tie ? whole(recall * 10 ** decimals) / 10 ** decimals : recall).toFixed(decimals), step = 10 ** -decimals;
  if (recall < 1 && Number(label) === 1) return `>${(1 - step).toFixed(decimals)}`;
  if (recall > 0 && Number(label) === 0) return `<${step.toFixed(decimals)}`;
  return label;
}

function intervalLabel(low, high, decimals = 2) {
  return low === null ? "-" : `${recallLabel(low, decimals)} to ${recallLabel(high, decimals)}`;
}

function lostLabel(lost) {
  return Object.entries(lost).map(([name, number]) => `${number.toLocaleString("en")} ${name === "errors" && number === 1 ? "error" : name}`).join(", ");
}

function dollarsLabel(amount) {
  if (amount === null || amount === undefined) return "unknown";
  return amount >= 1 || amount === 0 ? `$${amount.toFixed(2)}` : `$${amount.toFixed(amount < 0.001 ? 6 : 4)}`;
}

function number(value) {
  return value === null || value === undefined ? "-" : value.toLocaleString("en");
}

/** A number of trials, in words. */
function counted(trials) {
  return `${number(trials)} ${trials === 1 ? "trial" : "trials"}`;
}
