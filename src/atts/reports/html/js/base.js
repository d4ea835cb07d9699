// What all parts share. Texts of any origin reach the page as textContent and text nodes alone, but
// for formulas, which KaTeX makes MathML of (maths.js).

const byId = (id) => document.getElementById(id);
const { runs, problems, chains } = JSON.parse(byId("listing").textContent);
const MARKS = {
  right: "✓", wrong: "✗", "no answer": "∅", ungraded: "?", "not graded": "·", failed: "!", "not needed": "–",
};
const HOTTEST = 6; // nats: from here on a surprise is as red as can be

const FIELDS = ["run", "problem", "sample", "outcome", "answer", "turns", "taken", "draft", "target", "seconds"];
// A chain of the listing. Its place is that among the chains of its problem in its run.
const rows = chains.map((cells) => Object.fromEntries(cells.map((cell, field) => [FIELDS[field], cell])));
const byProblem = new Map(); // "run problem" -> rows
for (const row of rows) {
  const key = `${row.run} ${row.problem}`;
  if (!byProblem.has(key)) byProblem.set(key, []);
  row.place = byProblem.get(key).push(row) - 1;
}
const chainsOf = (run, problem) => byProblem.get(`${run} ${problem}`) ?? [];
const problemId = (row) => problems[row.problem][0];

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, action) {
  const made = element("button", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function options(select, entries, chosen) {
  for (const [value, text] of entries) {
    const option = element("option", text);
    option.value = String(value);
    option.selected = value === chosen;
    select.append(option);
  }
}

const shown = (value) => (typeof value === "number" ? value.toLocaleString("en") : value);
const digits = (value) => (typeof value === "number" ? value.toFixed(3) : value);
const nats = (hundredths) => `${(hundredths / 100).toFixed(2)} nats`;

// What is compressed: base64 of gzip, in the element with an id.
async function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

const texts = new Map(); // of an element's id
async function textsOf(row) {
  const id = problems[row.problem][2][row.run];
  if (!texts.has(id)) texts.set(id, JSON.parse(await unpack(id)));
  return texts.get(id);
}

// A library runs when it is first needed. The page's policy knows the hash of its text.
const running = new Map();
function library(name) {
  if (!running.has(name)) {
    running.set(name, unpack(`library-${name}`).then((text) => document.head.append(element("script", text))));
  }
  return running.get(name);
}
