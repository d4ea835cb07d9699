// The list of chains: filters, sorting, pages.

const PAGE = 25;
const state = { sort: null, down: false, page: 0, listed: [], open: null, sides: [], raw: false, running: false, heat: false };

// Title, and the field of a row.
const COLUMNS = [
  ["Problem", "problem"], ["Run", "run"], ["Chain", "sample"], ["Outcome", "outcome"], ["Answer", "answer"],
  ["Turns", "turns"], ["Taken over", "taken"], ["Draft tokens", "draft"], ["Target tokens", "target"], ["Seconds", "seconds"],
].filter(([, field]) => {
  if (field === "run") return runs.length > 1;
  return ["problem", "sample"].includes(field) || rows.some((row) => row[field]); // that say something
});
const WORDS = ["problem", "run", "outcome", "answer"];

// Problems of which most chains are right in one run, and not in another.
function differing() {
  const found = new Set();
  problems.forEach((_, problem) => {
    const shares = runs
      .map((_, run) => chainsOf(run, problem).filter(({ outcome }) => ["right", "wrong", "no answer"].includes(outcome)))
      .filter((graded) => graded.length)
      .map((graded) => graded.filter(({ outcome }) => outcome === "right").length / graded.length);
    if (shares.some((share) => share > 0.5) && shares.some((share) => share <= 0.5)) found.add(problem);
  });
  return found;
}
const differ = differing();

function filtered() {
  const [find, run, method, outcome, taken, between] =
    ["find", "run", "method", "outcome", "taken", "between"].map((id) => byId(id).value);
  const words = find.trim().toLowerCase();
  const wanted = problems.map(
    ([id, question], problem) =>
      (!words || id.toLowerCase().includes(words) || question.toLowerCase().includes(words)) &&
      (!between || differ.has(problem)),
  );
  const found = rows.filter(
    (row) =>
      wanted[row.problem] &&
      (!run || row.run === Number(run)) &&
      (!method || runs[row.run].method === method) &&
      (!outcome || row.outcome === outcome) &&
      (!taken || (taken === "yes") === row.taken > 0),
  );
  if (state.sort === null) return found;
  const key = (row) => (state.sort === "problem" ? problemId(row) : row[state.sort] ?? "");
  const compare = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : ORDER.compare(a, b));
  const sign = state.down ? -1 : 1;
  return found.sort((a, b) => sign * compare(key(a), key(b)) || a.problem - b.problem || a.run - b.run || a.sample - b.sample);
}
const ORDER = new Intl.Collator("en", { numeric: true });

const nameOf = (row) =>
  `problem ${problemId(row)}, chain ${row.sample}${runs.length > 1 ? ` of ${runs[row.run].name}` : ""}`;

function showList() {
  state.listed = filtered();
  const pages = Math.max(1, Math.ceil(state.listed.length / PAGE));
  state.page = Math.min(state.page, pages - 1);
  const right = state.listed.filter(({ outcome }) => outcome === "right").length;
  byId("count").textContent =
    `${shown(state.listed.length)} of ${shown(rows.length)} chains, ${shown(right)} of them right`;
  byId("between-note").hidden = !byId("between").value;
  byId("rows").replaceChildren(...state.listed.slice(state.page * PAGE, (state.page + 1) * PAGE).map(line));
  byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
  byId("back").disabled = state.page === 0;
  byId("forth").disabled = state.page === pages - 1;
}

function line(row) {
  const made = element("tr");
  if (row === state.open) made.setAttribute("aria-current", "true");
  for (const [title, field] of COLUMNS) {
    const cell = element("td", undefined, WORDS.includes(field) ? `word ${field}` : "");
    cell.dataset.label = title;
    if (field === "problem") {
      const opening = button(problemId(row), () => go(row));
      opening.setAttribute("aria-label", `Read ${nameOf(row)}`);
      cell.append(opening);
    } else if (field === "outcome") {
      cell.append(mark(row.outcome), row.outcome);
      cell.classList.add(row.outcome.replace(" ", "-"));
    } else {
      cell.textContent = field === "run" ? runs[row.run].name : shown(row[field] ?? "-");
    }
    made.append(cell);
  }
  return made;
}

function mark(outcome) {
  const made = element("span", `${MARKS[outcome]} `);
  made.setAttribute("aria-hidden", "true");
  return made;
}

function sortBy(field) {
  state.down = state.sort === field ? !state.down : !WORDS.includes(field) && field !== "sample";
  state.sort = field;
  state.page = 0;
  showHeadings();
  showList();
}

function showHeadings() {
  const focused = [...byId("columns").querySelectorAll("button")].indexOf(document.activeElement);
  byId("columns").replaceChildren(
    ...COLUMNS.map(([title, field]) => {
      const heading = element("th", undefined, WORDS.includes(field) ? "word" : "");
      heading.scope = "col";
      const sorted = state.sort === field;
      heading.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
      heading.append(button(title + (sorted ? (state.down ? " ↓" : " ↑") : ""), () => sortBy(field)));
      return heading;
    }),
  );
  if (focused >= 0) byId("columns").querySelectorAll("button")[focused].focus();
}

function turnPage(by) {
  state.page = Math.max(0, state.page + by);
  showList();
}

// The button of the next line, or of the one before; of another page, if need be.
function moveInList(by) {
  const buttons = () => [...byId("rows").querySelectorAll("button")];
  const at = buttons().indexOf(document.activeElement);
  let next = at < 0 ? 0 : at + by;
  if (next < 0 && state.page > 0) {
    turnPage(-1);
    next = buttons().length - 1;
  } else if (next >= buttons().length && !byId("forth").disabled) {
    turnPage(1);
    next = 0;
  }
  buttons()[next]?.focus();
}

function startList() {
  options(byId("run"), runs.map(({ name }, number) => [number, name]));
  const methods = [...new Set(runs.map(({ method }) => method))];
  options(byId("method"), methods.map((method) => [method, method]));
  const seen = new Set(rows.map(({ outcome }) => outcome));
  options(byId("outcome"), Object.keys(MARKS).filter((outcome) => seen.has(outcome)).map((outcome) => [outcome, outcome]));
  byId("run").parentElement.hidden = runs.length < 2;
  byId("method").parentElement.hidden = methods.length < 2;
  byId("between").parentElement.hidden = differ.size === 0;
  byId("filter").addEventListener("input", () => {
    state.page = 0;
    showList();
  });
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => turnPage(-1));
  byId("forth").addEventListener("click", () => turnPage(1));
  showHeadings();
  showList();
  for (const id of ["filter", "list", "pages"]) byId(id).hidden = false;
}
