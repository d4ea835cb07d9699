// Opening what has an address: a chain, or chains of one problem side by side. An address has the name
// of the run's folder, the problem's id and the chain's number, so it holds in any report of the run.

const SIDES = 3; // so many columns at first

const addressOf = (row) =>
  `#${new URLSearchParams({ run: runs[row.run].address, problem: problemId(row), chain: row.sample })}`;

function besideAddress(sides) {
  const parameters = new URLSearchParams({ problem: problemId(sides[0]) });
  for (const row of sides) parameters.append("side", `${runs[row.run].address}:${row.sample}`);
  return `#${parameters}`;
}

function visit(hash) {
  if (location.hash === hash) openAddress();
  else location.hash = hash;
}

const go = (row) => visit(addressOf(row));

function rowAt(address, problem, sample) {
  return rows.find(
    (row) => runs[row.run].address === address && problemId(row) === problem && row.sample === Number(sample),
  );
}

async function openAddress() {
  const parameters = new URLSearchParams(location.hash.slice(1));
  if (!parameters.has("problem")) return;
  const problem = parameters.get("problem");
  const asked = parameters.has("chain")
    ? [rowAt(parameters.get("run"), problem, parameters.get("chain"))]
    : parameters.getAll("side").map((side) => {
        const colon = side.lastIndexOf(":");
        return rowAt(side.slice(0, colon), problem, side.slice(colon + 1));
      });
  const found = asked.filter(Boolean);
  state.open = found[0] ?? null;
  state.sides = parameters.has("chain") ? [] : found;
  if (found.length) {
    const place = state.listed.indexOf(state.open);
    if (place >= 0) state.page = Math.floor(place / PAGE);
    showList();
  }
  byId("chain").hidden = false;
  await showOpen();
  byId("chain-heading").focus({ preventScroll: true });
  byId("chain").scrollIntoView();
}

// What is open, anew: after a switch, too.
async function showOpen() {
  const { open, sides } = state;
  const heading = byId("chain-heading");
  if (!open) {
    heading.textContent = "Not in this report";
    byId("content").replaceChildren(element("p", "The address names a chain that is in none of these runs."));
    return;
  }
  let problem;
  let made;
  try {
    problem = await textsOf(open);
    if (!state.raw) await library("katex");
    made = sides.length ? await sideBySide(sides) : reading(problem, open);
  } catch (error) {
    made = [element("p", `This browser cannot unpack the texts: ${error.message}`)];
  }
  if (state.open !== open || state.sides !== sides) return; // another was opened meanwhile
  heading.textContent = sides.length ? `Problem ${problemId(open)}, side by side` : `P${nameOf(open).slice(1)}`;
  const place = state.listed.indexOf(open);
  for (const id of ["previous", "next", "beside"]) byId(id).hidden = sides.length > 0;
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place === state.listed.length - 1;
  byId("beside").hidden ||= candidates(open).length < 2;
  byId("content").replaceChildren(...made);
  const hasHeat = byId("content").querySelector("[data-heat]") !== null;
  byId("heat").hidden = !hasHeat;
  byId("heat").disabled = state.running;
  byId("scale").hidden = !(hasHeat && state.heat && !state.running);
}

function chainBody(problem, row) {
  const chain = problem.chains[row.place];
  const made = element("div", undefined, "chain-body");
  if (chain.turns.some((turn) => turn.decision?.[4])) made.dataset.heat = "";
  made.append(...facts(chain, row), strip(chain), textOf(chain, row.run));
  return made;
}

const reading = (problem, row) => [
  ...questionBlock(problem),
  answers(givenAnswer(row), referenceAnswer(problem)),
  chainBody(problem, row),
];

// Side by side --------------------------------------------------------------------------------

const candidates = (row) => runs.flatMap((_, run) => chainsOf(run, row.problem));

// A chain of each run: the one that is open, and of the others those of the same number.
function firstSides(row) {
  const others = runs
    .map((_, run) => chainsOf(run, row.problem))
    .filter((of) => of.length && of[0].run !== row.run)
    .map((of) => of.find(({ sample }) => sample === row.sample) ?? of[0]);
  if (!others.length) others.push(...chainsOf(row.run, row.problem).filter((other) => other !== row));
  return [row, ...others].slice(0, SIDES);
}

async function sideBySide(sides) {
  const grid = element("div", undefined, "sides");
  for (const [place, row] of sides.entries()) {
    const column = element("section", undefined, "side");
    column.setAttribute("aria-label", nameOf(row));
    const choosing = element("p", undefined, "choosing");
    const replace = (other) => visit(besideAddress(sides.with(place, other)));
    const withRun = runs.map((run, number) => [number, run.name]).filter(([number]) => chainsOf(number, row.problem).length);
    if (withRun.length > 1) {
      choosing.append(chooser("Run", withRun, row.run, (run) => {
        const of = chainsOf(run, row.problem);
        replace(of.find(({ sample }) => sample === row.sample) ?? of[0]);
      }));
    }
    const of = chainsOf(row.run, row.problem);
    const entries = of.map((other, number) => [number, `${other.sample}: ${MARKS[other.outcome]} ${other.outcome}`]);
    choosing.append(chooser("Chain", entries, row.place, (number) => replace(of[number])));
    if (sides.length > 1) choosing.append(button("Remove", () => visit(besideAddress(sides.toSpliced(place, 1)))));
    column.append(choosing, answers(givenAnswer(row)), chainBody(await textsOf(row), row));
    grid.append(column);
  }
  const adding = element("p", undefined, "steps");
  const more = candidates(sides[0]).find((row) => !sides.includes(row));
  if (more) adding.append(button("Add a chain", () => visit(besideAddress([...sides, more]))));
  const problem = await textsOf(sides[0]);
  return [...questionBlock(problem), answers(referenceAnswer(problem)), adding, grid];
}

function chooser(title, entries, chosen, action) {
  const label = element("label", `${title} `);
  const select = element("select");
  options(select, entries, chosen);
  select.addEventListener("change", () => action(Number(select.value)));
  label.append(select);
  return label;
}

// Steps -----------------------------------------------------------------------------------------

function step(by) {
  const row = state.listed[state.listed.indexOf(state.open) + by];
  if (row) go(row);
}

function close() {
  byId("chain").hidden = true;
  history.replaceState(null, "", "#chains");
  state.sides = [];
  const current = byId("rows").querySelector("tr[aria-current] button");
  (current ?? byId("find")).focus();
  byId("chains").scrollIntoView();
}

// The next turn, or the one before, of those that a selector takes.
function moveToTurn(by, selector) {
  const all = [...byId("content").querySelectorAll(`ol.turns > li${selector}`)];
  const top = byId("chain").querySelector(".bar").getBoundingClientRect().bottom + 4;
  const next = by > 0
    ? all.find((turn) => turn !== document.activeElement && turn.getBoundingClientRect().top > top)
    : all.findLast((turn) => turn !== document.activeElement && turn.getBoundingClientRect().top < top - 8);
  if (!next) return;
  next.focus({ preventScroll: true });
  next.scrollIntoView();
}

function flip(name) {
  state[name] = !state[name];
  byId(name).setAttribute("aria-pressed", String(state[name]));
  return showOpen();
}

function startReader() {
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("beside").addEventListener("click", () => visit(besideAddress(firstSides(state.open))));
  byId("close").addEventListener("click", close);
  byId("most").textContent = `${HOTTEST} or more`;
  for (const name of ["raw", "running", "heat"]) byId(name).addEventListener("click", () => flip(name));
  addEventListener("hashchange", openAddress);
  openAddress();
}
