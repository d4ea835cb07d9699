// What is shown of a chain: the question, the answers, and its text, turn by turn or as one.

function labelled(heading, nodes, className) {
  const made = element("div", undefined, className);
  made.append(element("h4", heading), ...nodes);
  return made;
}

function questionBlock(problem) {
  const body = element("div", undefined, "prose");
  body.append(...rendered(problem.question));
  if (problem.choices.length) {
    const list = element("ol", undefined, "choices");
    list.append(...problem.choices.map((choice) => {
      const item = element("li");
      item.append(...rendered(choice));
      return item;
    }));
    body.append(list);
  }
  const made = [labelled("Question", [body], "question")];
  if (problem.prompt.length) {
    const prompt = element("details", undefined, "prompt");
    prompt.append(element("summary", "Prompt: the messages that go into each model's chat template"));
    for (const [role, content] of problem.prompt) {
      prompt.append(element("h5", role), element("div", content, "text"));
    }
    made.push(prompt);
  }
  return made;
}

function answers(...boxes) {
  const made = element("div", undefined, "answers");
  made.append(...boxes);
  return made;
}

function givenAnswer(row) {
  const given = element("p", undefined, "given");
  given.append(row.answer === null ? "none" : answer(row.answer));
  const verdict = element("p", undefined, `verdict ${row.outcome.replace(" ", "-")}`);
  verdict.append(mark(row.outcome), row.outcome);
  return labelled("Chain's answer", [given, verdict]);
}

function referenceAnswer(problem) {
  const gold = element("p", undefined, "given");
  gold.append(problem.gold !== null ? answer(problem.gold) : problem.tested ? "a program that passes the tests" : "none is known");
  return labelled("Reference answer", [gold]);
}

function facts(chain, row) {
  const list = element("dl", undefined, "facts");
  const entries = [
    ["Ended by", chain.end], ["Turns", row.turns], ["Taken over", row.taken], ["Draft tokens", row.draft],
    ["Target tokens", row.target], ["Seconds", row.seconds],
  ].filter(([, value]) => value !== 0);
  for (const [name, value] of entries) {
    const entry = element("div");
    entry.append(element("dt", name), element("dd", shown(value)));
    list.append(entry);
  }
  return chain.error ? [list, element("p", `Error: ${chain.error}`, "notes")] : [list];
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

function textOf(chain, run) {
  return state.running ? oneText(chain) : turns(chain, run);
}

// What is kept of the chain, as it was read by the models; a formula belongs to who began it.
function oneText(chain) {
  const made = element("div", undefined, "prose one");
  const segments = chain.turns.flatMap((turn) => turn.segments).filter(([, kept]) => kept);
  const borders = []; // where each segment ends
  let length = 0;
  for (const [author, , , text] of segments) borders.push([(length += text.length), author]);
  const whole = segments.map(([, , , text]) => text).join("");
  let at = 0;
  let segment = 0;
  const add = (nodes, author) => {
    const span = element("span", undefined, author);
    span.append(...nodes);
    made.append(span);
  };
  for (const [piece, source, displayed] of state.raw ? [[whole]] : pieces(whole)) {
    const end = at + piece.length;
    const made = source !== undefined && formula(source, displayed);
    while (at < end) {
      while (borders[segment][0] <= at) segment += 1;
      const [border, author] = borders[segment];
      const next = made ? end : Math.min(end, border);
      add(made ? [made] : [whole.slice(at, next)], author);
      at = next;
    }
  }
  return made;
}

function turns(chain, run) {
  const list = element("ol", undefined, "turns");
  list.append(...chain.turns.map((turn, number) => {
    const item = element("li");
    item.tabIndex = -1;
    if (turn.segments.some(([author]) => author === "draft") && turn.segments.some(([author]) => author === "target")) {
      item.classList.add("taken-over");
    }
    const heading = element("h4", `Turn ${number}`);
    if (turn.decision) heading.append(...decision(turn.decision, run));
    if (turn.waited) heading.append(element("span", `waited ${shown(turn.waited)} s for other chains`));
    item.append(heading);
    for (const segment of turn.segments) item.append(segmentOf(segment, turn.decision));
    return item;
  }));
  return list;
}

function segmentOf(segment, decided) {
  const [author, kept, tokens, text, cut, cutTokens] = segment;
  const surprises = (state.heat && author === "draft" && decided?.[4]) || [];
  const made = element("div", undefined, `segment ${kind(segment)}`);
  const p = author === "draft" && decided ? `, p = ${digits(decided[1])}` : "";
  const name = author === "draft" ? "Draft" : "Target";
  const off = cut ? `, ${shown(cutTokens)} of them cut off` : "";
  const top = surprises.length ? `, largest surprise ${nats(Math.max(...surprises))}` : "";
  made.append(element("p", `${name}${kept ? "" : ", replaced"}${tokens ? `, ${shown(tokens)} tokens` : ""}${off}${p}${top}`, "author"));
  if (surprises.length) {
    const scored = decided[5];
    // Both models count alike, so it is known between which tokens the cut is.
    const cutAt = scored === tokens && cutTokens ? tokens - cutTokens : undefined;
    made.append(...bars(surprises, cutAt < surprises.length ? cutAt : undefined));
    made.append(heatedText(text, cut, surprises, surprises.length / scored));
    return made;
  }
  const body = element("div", undefined, state.raw ? "text" : "prose");
  body.append(...rendered(text));
  if (cut) body.append(element("del", cut)); // raw: it was never read as part of a formula
  made.append(body);
  return made;
}

// A bar a token, as high as its surprise; where the tokens are those that were cut, the cut, too.
function bars(surprises, cutAt) {
  const SVG = "http://www.w3.org/2000/svg";
  const part = (name, attributes, holder) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, String(value));
    holder?.append(made);
    return made;
  };
  const top = Math.max(...surprises);
  const described = `Surprises of ${surprises.length} tokens; the largest is ${nats(top)}, of token ${surprises.indexOf(top) + 1}`;
  const made = part("svg", {
    class: "token-bars", viewBox: `0 0 ${surprises.length} 100`, preserveAspectRatio: "none", role: "img", "aria-label": described,
  });
  made.style.maxWidth = `${Math.max(12, surprises.length * 0.6)}rem`;
  const heights = surprises.map((surprise) => Math.max(1, Math.min(100, surprise / HOTTEST)));
  part("path", { d: heights.map((height, token) => `M${token + 0.1} 100V${100 - height}h.8V100z`).join("") }, made);
  if (cutAt !== undefined) part("line", { x1: cutAt, x2: cutAt, y1: 0, y2: 100 }, made);
  const said = element("p", undefined, "said");
  said.setAttribute("aria-hidden", "true");
  const rest = cutAt === undefined ? described : `${described}; cut before token ${cutAt + 1}`;
  said.textContent = rest;
  made.addEventListener("pointermove", ({ offsetX }) => {
    const token = Math.min(surprises.length - 1, Math.max(0, Math.floor((offsetX / made.clientWidth) * surprises.length)));
    said.textContent = `Token ${token + 1}: ${nats(surprises[token])}`;
  });
  made.addEventListener("pointerleave", () => { said.textContent = rest; });
  return [made, said];
}

// A segment's text, with what was cut off behind it, coloured by the surprises, which are those of a
// share of it: what is cut off may hold segments that had come with this one.
function heatedText(text, cut = "", surprises, share) {
  const made = element("div", undefined, "text");
  const border = [...text].length;
  const characters = [...text, ...cut]; // not halves of them
  const struck = element("del");
  const own = Math.ceil(share * characters.length);
  for (const [start, end, heat] of spread(surprises, own, characters.length, border)) {
    const piece = characters.slice(start, end).join("");
    (start < border ? made : struck).append(heat === undefined ? piece : heated(piece, heat));
  }
  if (cut) made.append(struck);
  return made;
}

// Tokens over their own characters, evenly: [start, end, surprise], with a break at the border, and up
// to the length without any. Of several tokens on one character the most surprising counts.
function spread(surprises, own, length, border) {
  const starts = new Map([[0, undefined], [border, undefined], [own, undefined]]);
  surprises.forEach((surprise, token) => {
    const start = Math.floor((token * own) / surprises.length);
    starts.set(start, Math.max(surprise, starts.get(start) ?? 0));
  });
  const sorted = [...starts].sort(([a], [b]) => a - b);
  let last;
  return sorted.map(([start, surprise], place) => {
    last = surprise ?? last; // the break may be within a token
    return [start, sorted[place + 1]?.[0] ?? length, start < own ? last : undefined];
  });
}

function heated(text, surprise) {
  const piece = element("i", text);
  piece.style.setProperty("--heat", String(Math.min(1, surprise / (100 * HOTTEST))));
  piece.title = `${nats(surprise)}, about here: tokens are spread evenly over the segment's characters`;
  return piece;
}

function decision([score, p, threshold, taken], run) {
  const perplexity = runs[run].perplexity && typeof score === "number" ? `, perplexity ${Math.exp(score).toFixed(2)}` : "";
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
