// Formulas, rendered by KaTeX as MathML: browsers lay it out by themselves, with no fonts and no style
// sheet, and read it aloud.

// A formula within a text: between $$, \[ \], \( \) or $, or an environment. A delimiter that has no
// partner, as where a segment ends within a formula, is text. Formulas are bounded, so that looking
// for the end of each of many takes no time to speak of. A single $ may be a price: as in Pandoc, no
// blank may stand inside of the delimiters and no digit behind them.
const FORMULA = new RegExp(
  [
    String.raw`\$\$([^$]{1,2000}?)\$\$`,
    String.raw`\\\[([^]{1,2000}?)\\\]`,
    String.raw`\\\(([^]{1,2000}?)\\\)`,
    String.raw`(?<![\\$])\$(?![\s$])((?:\\[^\n]|[^$\\\n]){1,400}?)(?<!\s)\$(?!\d)`,
    String.raw`(\\begin\{((?:align|equation|gather)\*?)\}[^]{1,2000}?\\end\{\6\})`,
  ].join("|"),
  "g",
);
// A formula that KaTeX cannot render, or that asks for links, pictures or HTML, is shown as text: both
// raise. (By throwOnError and trust set to false its commands would be shown without their contents.)
const LIMITS = {
  maxExpand: 200, maxSize: 20, output: "mathml", strict: "ignore", throwOnError: true,
  trust: () => { throw new Error("not in a report"); },
};

// Letters that browsers no longer draw by the attribute mathvariant: the first capital and the first
// small letter of the alphabet in that style.
const ALPHABETS = {
  bold: [0x1d400, 0x1d41a], "double-struck": [0x1d538, 0x1d552], fraktur: [0x1d504, 0x1d51e], script: [0x1d49c, 0x1d4b6],
  "bold-italic": [0x1d468, 0x1d482], "sans-serif": [0x1d5a0, 0x1d5ba], monospace: [0x1d670, 0x1d68a],
};
const ELSEWHERE = {
  "double-struck": { C: "ℂ", H: "ℍ", N: "ℕ", P: "ℙ", Q: "ℚ", R: "ℝ", Z: "ℤ" },
  fraktur: { C: "ℭ", H: "ℌ", I: "ℑ", R: "ℜ", Z: "ℨ" },
  script: { B: "ℬ", E: "ℰ", F: "ℱ", H: "ℋ", I: "ℐ", L: "ℒ", M: "ℳ", R: "ℛ", e: "ℯ", g: "ℊ", o: "ℴ" },
};

function letter(char, variant) {
  if (ELSEWHERE[variant]?.[char]) return ELSEWHERE[variant][char];
  const [capitals, small] = ALPHABETS[variant];
  if (char >= "A" && char <= "Z") return String.fromCodePoint(capitals + char.charCodeAt(0) - 65);
  if (char >= "a" && char <= "z") return String.fromCodePoint(small + char.charCodeAt(0) - 97);
  return char;
}

// A text as [text, formula, is displayed]; of a formula the text is what it was made of.
function pieces(text) {
  const found = [];
  let end = 0;
  for (const match of text.matchAll(FORMULA)) {
    if (match.index > end) found.push([text.slice(end, match.index)]);
    const [whole, dollars, brackets, parentheses, dollar, environment] = match;
    const displayed = dollars ?? brackets ?? environment;
    found.push([whole, displayed ?? parentheses ?? dollar, displayed !== undefined]);
    end = match.index + whole.length;
  }
  if (end < text.length) found.push([text.slice(end)]);
  return found;
}

// A formula, or undefined where it is no such.
function formula(source, displayMode) {
  const made = element("span", undefined, displayMode ? "formula displayed" : "formula");
  try {
    katex.render(source, made, { ...LIMITS, displayMode });
  } catch {
    return undefined;
  }
  for (const part of made.querySelectorAll("[mathvariant]")) {
    const variant = part.getAttribute("mathvariant");
    if (ALPHABETS[variant]) part.textContent = [...part.textContent].map((char) => letter(char, variant)).join("");
  }
  for (const table of made.querySelectorAll("mtable[columnalign]")) {
    const sides = table.getAttribute("columnalign").split(" ");
    for (const row of table.children) {
      [...row.children].forEach((cell, place) => { cell.style.textAlign = sides[place] ?? sides.at(-1); });
    }
  }
  return made;
}

// A text with its formulas, as nodes; as it is where raw text is wished for.
function rendered(text) {
  if (state.raw) return [document.createTextNode(text)];
  return pieces(text).map(([piece, source, displayed]) =>
    (source !== undefined && formula(source, displayed)) || document.createTextNode(piece));
}

// An answer is a formula without delimiters, or words.
function answer(text) {
  const isFormula = !state.raw && /[\\^_]/.test(text) && text.length <= 400;
  const made = isFormula ? formula(`\\displaystyle ${text}`, false) : undefined;
  return made ?? document.createTextNode(text);
}
