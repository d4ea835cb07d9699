"use strict";
// The chain browser. Texts of any origin reach the page as textContent and text nodes alone.
(() => {
  const byId = (id) => document.getElementById(id);
  const runs = JSON.parse(byId("listing").textContent);
  const PAGE = 25;
  const MARKS = {
    right: "✓", wrong: "✗", "no answer": "∅", ungraded: "?", "not graded": "·", failed: "!", "not needed": "–",
  };
  // Title, place in a row of the listing, and whether a narrow screen leaves it out.
  const COLUMNS = [
    ["Problem", 0, false], ["Chain", 1, false], ["Outcome", 2, false], ["Answer", 3, false],
    ["Turns", 4, true], ["Taken over", 5, true], ["Draft tokens", 6, true],
    ["Target tokens", 7, true], ["Seconds", 8, true],
  ];
  const HOTTEST = 6; // nats: from here on a surprise is as red as can be
  const state = { run: 0, sort: null, down: false, page: 0, rows: [], open: null, chain: null, heat: false };
  const unpacked = new Map();

  function element(name, text, className) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (className) made.className = className;
    return made;
  }

  const shown = (value) => (typeof value === "number" ? value.toLocaleString("en") : value);

  // The list ------------------------------------------------------------------------------

  function filtered() {
    const run = runs[state.run];
    const find = byId("find").value.trim().toLowerCase();
    const outcome = byId("outcome").value;
    const taken = byId("taken").value;
    const wanted = run.problems.map(
      ([id, question]) => !find || id.toLowerCase().includes(find) || question.toLowerCase().includes(find),
    );
    const rows = run.chains.filter(
      (row) =>
        wanted[row[0]] &&
        (!outcome || row[2] === outcome) &&
        (!taken || (taken === "yes") === row[5] > 0),
    );
    if (state.sort === null) return rows;
    const key = (row) => (state.sort === 0 ? run.problems[row[0]][0] : row[state.sort] ?? "");
    const compare = (a, b) =>
      typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    const sign = state.down ? -1 : 1;
    return rows.sort((a, b) => sign * compare(key(a), key(b)) || a[0] - b[0] || a[1] - b[1]);
  }

  function showList() {
    state.rows = filtered();
    const pages = Math.max(1, Math.ceil(state.rows.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const run = runs[state.run];
    const right = state.rows.filter((row) => row[2] === "right").length;
    const total = run.chains.length;
    byId("count").textContent =
      `${shown(state.rows.length)} of ${shown(total)} chains, ${shown(right)} of them right`;
    byId("rows").replaceChildren(
      ...state.rows.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row) => {
        const line = element("tr");
        if (row === state.open) line.setAttribute("aria-current", "true");
        COLUMNS.forEach(([, place, minor]) => {
          const cell = element("td", undefined, minor ? "minor" : "");
          if (place === 0) {
            const button = element("button", run.problems[row[0]][0]);
            button.type = "button";
            button.setAttribute("aria-label", `Read problem ${run.problems[row[0]][0]}, chain ${row[1]}`);
            button.addEventListener("click", () => go(row));
            cell.append(button);
          } else if (place === 2) {
            const mark = element("span", `${MARKS[row[2]]} `);
            mark.setAttribute("aria-hidden", "true");
            cell.append(mark, row[2]);
            cell.classList.add(row[2].replace(" ", "-"));
          } else {
            cell.textContent = shown(row[place] ?? "-");
            if (place === 3) cell.classList.add("cut");
          }
          line.append(cell);
        });
        return line;
      }),
    );
    byId("page").textContent = `Page ${state.page + 1} of ${pages}`;
    byId("back").disabled = state.page === 0;
    byId("forth").disabled = state.page === pages - 1;
  }

  function sortBy(place) {
    state.down = state.sort === place ? !state.down : place > 3;
    state.sort = place;
    state.page = 0;
    showHeadings();
    showList();
  }

  function showHeadings() {
    const focused = [...byId("columns").querySelectorAll("button")].indexOf(document.activeElement);
    byId("columns").replaceChildren(
      ...COLUMNS.map(([title, place, minor]) => {
        const heading = element("th", undefined, minor ? "minor" : "");
        heading.scope = "col";
        const sorted = state.sort === place;
        heading.setAttribute("aria-sort", sorted ? (state.down ? "descending" : "ascending") : "none");
        const button = element("button", title + (sorted ? (state.down ? " ↓" : " ↑") : ""));
        button.type = "button";
        button.addEventListener("click", () => sortBy(place));
        heading.append(button);
        return heading;
      }),
    );
    if (focused >= 0) byId("columns").querySelectorAll("button")[focused].focus();
  }

  // A chain -------------------------------------------------------------------------------

  async function unpack(id) {
    if (!unpacked.has(id)) {
      const bytes = Uint8Array.from(atob(byId(id).textContent), (char) => char.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      unpacked.set(id, JSON.parse(await new Response(stream).text()));
    }
    return unpacked.get(id);
  }

  // A chain has an address, so that it can be linked to and the browser's back button works.
  function go(row) {
    const hash = `#chain=${state.run},${runs[state.run].chains.indexOf(row)}`;
    if (location.hash === hash) openAddress();
    else location.hash = hash;
  }

  async function openAddress() {
    const match = /^#chain=(\d+),(\d+)$/.exec(location.hash);
    const row = match && runs[match[1]]?.chains[match[2]];
    if (!row) return;
    const number = Number(match[1]);
    if (number !== state.run) {
      state.run = number;
      byId("run").value = String(number);
    }
    const [id, , texts] = runs[number].problems[row[0]];
    let problem;
    try {
      problem = await unpack(texts);
    } catch (error) {
      byId("content").replaceChildren(element("p", `This browser cannot unpack the texts: ${error.message}`));
      byId("chain").hidden = false;
      return;
    }
    state.open = row;
    const first = runs[number].chains.findIndex((other) => other[0] === row[0]);
    const chain = problem.chains[runs[number].chains.indexOf(row) - first];
    byId("chain-heading").textContent = `Problem ${id}, chain ${row[1]}`;
    byId("surprises").hidden = !chain.turns.some((turn) => turn.decision?.[4]);
    byId("content").replaceChildren(...facts(problem, chain, row), strip(chain), turns(chain));
    state.chain = chain;
    byId("chain").hidden = false;
    let place = state.rows.indexOf(row);
    if (place >= 0) state.page = Math.floor(place / PAGE);
    showList();
    place = state.rows.indexOf(row);
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place === state.rows.length - 1;
    byId("chain-heading").focus({ preventScroll: true });
    byId("chain").scrollIntoView();
  }

  function facts(problem, chain, row) {
    const list = element("dl");
    const entries = [
      ["Outcome", `${MARKS[row[2]]} ${row[2]}`], ["Answer", row[3] ?? "none"], ["Gold answer", problem.gold],
      ["Ended by", chain.end], ["Turns", row[4]], ["Taken over", row[5]], ["Draft tokens", row[6]],
      ["Target tokens", row[7]], ["Seconds", row[8]],
    ];
    for (const [name, value] of entries) {
      const entry = element("div");
      entry.append(element("dt", name), element("dd", shown(value), name === "Outcome" ? row[2] : ""));
      list.append(entry);
    }
    const question = element("div", problem.question, "question");
    const choices = problem.choices.map((choice, place) => `\n${String.fromCharCode(65 + place)}. ${choice}`);
    question.append(...choices);
    const made = [question, list];
    if (chain.error) made.push(element("p", `Error: ${chain.error}`, "notes"));
    return made;
  }

  const kind = ([author, kept]) => (kept ? author : "replaced");

  // As wide as the segments are long; the same is in the text below.
  function strip(chain) {
    const made = element("div", undefined, "strip");
    made.setAttribute("aria-hidden", "true");
    for (const turn of chain.turns) {
      for (const segment of turn.segments) {
        const [, , tokens, text, , cutTokens = 0] = segment;
        const part = element("span", undefined, kind(segment));
        part.style.flexGrow = String(tokens - cutTokens || text.length || 1);
        made.append(part);
        if (cutTokens) {
          const cut = element("span", undefined, "cut");
          cut.style.flexGrow = String(cutTokens);
          made.append(cut);
        }
      }
    }
    return made;
  }

  function turns(chain) {
    const list = element("ol", undefined, "turns");
    list.append(...chain.turns.map((turn, number) => {
      const item = element("li");
      const heading = element("h4", `Turn ${number}`);
      if (turn.decision) heading.append(...decision(turn.decision));
      if (turn.waited) heading.append(element("span", `waited ${shown(turn.waited)} s for other chains`));
      item.append(heading);
      for (const segment of turn.segments) {
        const [author, kept, tokens, , cut, cutTokens] = segment;
        const surprises = (state.heat && author === "draft" && turn.decision?.[4]) || [];
        const part = element("div", undefined, `segment ${kind(segment)}`);
        const p = author === "draft" && turn.decision ? `, p = ${digits(turn.decision[1])}` : "";
        const name = author === "draft" ? "Draft" : "Target";
        const off = cut ? `, ${shown(cutTokens)} of them cut off` : "";
        const top = surprises.length ? `, largest surprise ${nats(Math.max(...surprises))}` : "";
        part.append(
          element("p", `${name}${kept ? "" : ", replaced"}${tokens ? `, ${shown(tokens)} tokens` : ""}${off}${p}${top}`),
          body(segment, surprises),
        );
        item.append(part);
      }
      return item;
    }));
    return list;
  }

  const nats = (hundredths) => `${(hundredths / 100).toFixed(2)} nats`;

  // A segment's text, with what was cut off behind it; coloured where there are surprises.
  function body([, , , text, cut = ""], surprises) {
    const made = element("div", undefined, "text");
    const border = [...text].length;
    const characters = [...text, ...cut]; // not halves of them
    const struck = element("del");
    for (const [start, end, heat] of spread(surprises, characters.length, border)) {
      const piece = characters.slice(start, end).join("");
      (start < border ? made : struck).append(heat === undefined ? piece : heated(piece, heat));
    }
    if (cut) made.append(struck);
    return made;
  }

  // Tokens over characters, evenly: [start, end, surprise], with a break at the border. Of several
  // tokens on one character the most surprising counts.
  function spread(surprises, length, border) {
    const starts = new Map([[0, undefined], [border, undefined]]);
    surprises.forEach((surprise, token) => {
      const start = Math.floor((token * length) / surprises.length);
      starts.set(start, Math.max(surprise, starts.get(start) ?? 0));
    });
    const sorted = [...starts].sort(([a], [b]) => a - b);
    let last;
    return sorted.map(([start, surprise], place) => {
      last = surprise ?? last; // the break may be within a token
      return [start, sorted[place + 1]?.[0] ?? length, last];
    });
  }

  function heated(text, surprise) {
    const piece = element("i", text);
    piece.style.setProperty("--heat", String(Math.min(1, surprise / (100 * HOTTEST))));
    piece.title = `${nats(surprise)}, about here: tokens are spread evenly over the segment's characters`;
    return piece;
  }

  const digits = (value) => (typeof value === "number" ? value.toFixed(3) : value);

  function decision([score, p, threshold, taken]) {
    const perplexity = runs[state.run].perplexity && typeof score === "number" ? `, perplexity ${Math.exp(score).toFixed(2)}` : "";
    const limit = threshold === null ? "" : ` ${p <= threshold ? "≤" : ">"} ${digits(threshold)}`;
    const meter = element("span", undefined, "meter");
    meter.setAttribute("aria-hidden", "true");
    const filled = element("i");
    filled.style.width = `${100 * Math.min(1, Math.max(0, Number(p)))}%`;
    meter.append(filled);
    if (threshold !== null) {
      const tick = element("b");
      tick.style.left = `${100 * Math.min(1, Math.max(0, Number(threshold)))}%`;
      meter.append(tick);
    }
    return [
      element("span", `score ${digits(score)}${perplexity}`),
      element("span", `p = ${digits(p)}${limit}`),
      meter,
      element("span", taken ? "the target takes over" : "the draft goes on", taken ? "over" : ""),
    ];
  }

  function step(by) {
    const row = state.rows[state.rows.indexOf(state.open) + by];
    if (row) go(row);
  }

  function close() {
    byId("chain").hidden = true;
    history.replaceState(null, "", "#chains");
    const current = byId("rows").querySelector("tr[aria-current] button");
    (current ?? byId("find")).focus();
    byId("chains").scrollIntoView();
  }

  // Start ---------------------------------------------------------------------------------

  runs.forEach((run, number) => {
    const option = element("option", run.name);
    option.value = String(number);
    byId("run").append(option);
  });
  byId("run").parentElement.hidden = runs.length < 2;
  const restart = () => {
    state.run = Number(byId("run").value);
    state.page = 0;
    showList();
  };
  byId("filter").addEventListener("input", restart);
  byId("filter").addEventListener("submit", (event) => event.preventDefault());
  byId("back").addEventListener("click", () => { state.page -= 1; showList(); });
  byId("forth").addEventListener("click", () => { state.page += 1; showList(); });
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("close").addEventListener("click", close);
  byId("most").textContent = `${HOTTEST} or more`;
  byId("heat").addEventListener("click", () => {
    state.heat = !state.heat;
    byId("heat").setAttribute("aria-pressed", String(state.heat));
    byId("scale").hidden = !state.heat;
    byId("content").querySelector("ol.turns").replaceWith(turns(state.chain));
  });
  addEventListener("hashchange", openAddress);
  showHeadings();
  showList();
  for (const id of ["filter", "list", "pages"]) byId(id).hidden = false;
  openAddress();
})();
