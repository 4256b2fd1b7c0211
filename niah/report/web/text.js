// Text into the page, as text only; and where in an answer the key facts stand.

const CONTROL = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** What a screen would not show, or obey, in a form that it shows. */
function visible(text) {
  return text.replace(CONTROL, (sign) => {
    const code = sign.charCodeAt(0);
    if (code === 13) return "";
    return code < 32 ? String.fromCharCode(0x2400 + code) : `\u27e8U+${code.toString(16).toUpperCase().padStart(4, "0")}\u27e9`;
  });
}

/** An element. Strings among its children become text; attributes that begin with "on" are listeners. */
function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, visible(String(value)));
  }
  made.append(...children.flat().filter((child) => child !== null).map((child) => (child instanceof Node ? child : visible(String(child)))));
  return made;
}

const MARKS = new Map([["\u2019", "'"], ["\u2018", "'"], ["\u201c", '"'], ["\u201d", '"'], ["*", ""], ["_", " "], ["\u00ad", ""]]);
const DASH = /[\u2010-\u2015\u2212-]/;
const REASONING = [/<(think|thinking|thought|reasoning)>[^]*?(?:<\/\1>|$)/gi, /^[^]*?<\/(?:think|thinking|thought|reasoning)>/gi];

/** A text as niah/task/score.py compares it, and for each of its characters the place in the text that it comes from. */
function normalised(text) {
  let plain = text;
  for (const pattern of REASONING) plain = plain.replace(pattern, (part) => "\n".repeat(part.length));
  const signs = [], places = [];
  for (const { 0: cluster, index } of plain.matchAll(/\P{M}\p{M}*|\p{M}+/gsu)) { // a letter with its accents: they are composed together
    for (const sign of cluster.normalize("NFKC").toLowerCase().replaceAll("\u00df", "ss").replaceAll("\u03c2", "\u03c3")) {
      const plainer = MARKS.get(sign) ?? (DASH.test(sign) || /\s/.test(sign) ? " " : sign);
      if (plainer) {
        signs.push(plainer);
        places.push([index, index + cluster.length]);
      }
    }
  }
  const digit = (i) => i >= 0 && i < signs.length && /\p{Nd}/u.test(signs[i]);
  const keep = (i) => !(signs[i] === "," && digit(i - 1) && digit(i + 1) && digit(i + 2) && digit(i + 3) && !digit(i + 4))
    && !(signs[i] === " " && signs[i - 1] === " ");
  const kept = signs.map((_, i) => i).filter(keep);
  const units = kept.flatMap((i) => signs[i].split("").map((unit) => [unit, places[i]]));
  return { text: units.map(([unit]) => unit).join(""), places: units.map(([, at]) => at) };
}

/** [start, end, number of the fact] wherever one of the facts' forms stands in a text, none within another. */
function factsIn(text, facts) {
  const plain = normalised(text), found = [];
  facts.forEach((forms, fact) => {
    for (const form of forms) {
      const escaped = form.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
      const pattern = new RegExp(`(?<![\\p{L}\\p{N}_])(?<!\\p{Nd}[.,:/])${escaped}(?![\\p{L}\\p{N}_])(?![.,:/]\\p{Nd})`, "gu");
      for (const match of plain.text.matchAll(pattern)) {
        found.push([plain.places[match.index][0], plain.places[match.index + match[0].length - 1][1], fact]);
      }
    }
  });
  found.sort((a, b) => a[0] - b[0] || b[1] - a[1]);
  return found.filter((one, i) => !found.slice(0, i).some((other) => other[1] >= one[1] && other[0] <= one[0]));
}

/** The text as nodes, the found facts marked. */
function marked(text, found) {
  const nodes = [];
  let at = 0;
  for (const [start, end] of found) {
    if (start < at) continue;
    nodes.push(text.slice(at, start), el("mark", {}, text.slice(start, end)));
    at = end;
  }
  return [...nodes, text.slice(at)];
}
