// Figures, drawn by Plotly as they come near the screen, and else when there is nothing to do, so that
// all are there on paper. Their colours are those of the style sheet.

const LAYOUT = {
  autosize: true,
  barmode: "overlay",
  font: { color: "var(--ink)", family: "system-ui, sans-serif", size: 12 },
  hoverlabel: { align: "left", bgcolor: "var(--raised)", bordercolor: "var(--soft)", font: { color: "var(--ink)" }, namelength: -1 },
  hovermode: "closest",
  legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", traceorder: "normal", font: { size: 11 } },
  margin: { l: 4, r: 12, t: 8, b: 4 },
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
};
const AXIS = {
  automargin: true, gridcolor: "var(--faint)", linecolor: "var(--faint)", showline: true, tickcolor: "var(--faint)",
  ticks: "outside", title: { standoff: 8 }, zeroline: false,
};
const CONFIG = { displayModeBar: false, doubleClick: "reset", responsive: true, showTips: false };
const drawings = JSON.parse(byId("drawings").textContent);
const drawn = new Set();

// The same with the colours that the style sheet has now.
function coloured(value, style) {
  if (Array.isArray(value)) return value.map((each) => coloured(each, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, coloured(each, style)]));
  }
  const name = typeof value === "string" && /^var\((--[a-z0-9]+)\)$/.exec(value);
  return name ? style.getPropertyValue(name[1]) : value;
}

const isWide = (holder) => holder.parentElement.classList.contains("wide");

function layoutOf(holder) {
  const { height, xaxis, yaxis, ...layout } = drawings[holder.dataset.figure].layout;
  const axes = {};
  const touched = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page
  for (const [name, axis] of [["xaxis", xaxis], ["yaxis", yaxis]]) {
    const fixedrange = touched || axis.tickmode === "array"; // rows are not zoomed
    axes[name] = { ...AXIS, ...axis, fixedrange, title: { ...AXIS.title, ...axis.title } };
  }
  const tall = isWide(holder) ? Math.max(height, 0.7 * innerHeight) : height;
  return { ...LAYOUT, ...layout, ...axes, dragmode: touched ? false : "zoom", height: tall };
}

async function draw(holder) {
  drawn.add(holder);
  try {
    await library("plotly");
  } catch (error) {
    holder.textContent = `This browser cannot unpack what draws figures: ${error.message}`;
    return;
  }
  const style = getComputedStyle(document.documentElement);
  const { data } = drawings[holder.dataset.figure];
  await Plotly.react(holder, ...coloured([data, layoutOf(holder)], style), CONFIG);
  scalable(holder);
  if (holder.hasAttribute("data-listens")) return;
  holder.setAttribute("data-listens", "");
  holder.on("plotly_afterplot", () => scalable(holder)); // another size of the window
  holder.on("plotly_relayout", (change) => {
    const zooms = Object.keys(change).some((key) => key.includes("range["));
    const resets = Object.keys(change).some((key) => key.includes("autorange") || key.endsWith("range"));
    if (zooms || resets) holder.parentElement.querySelector(".unzoom").hidden = !zooms;
  });
}

// On paper a figure is as wide as there is room, however wide it was drawn.
function scalable(holder) {
  const { width, height } = holder._fullLayout;
  holder.style.setProperty("--ratio", String(width / height));
  for (const svg of holder.querySelectorAll(".main-svg")) svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
}

const drawAgain = () => Promise.all([...drawn].map(draw));

function enlarge(holder, enlarging) {
  const wide = holder.parentElement.classList.toggle("wide");
  enlarging.setAttribute("aria-pressed", String(wide));
  draw(holder).then(() => Plotly.Plots.resize(holder));
}

function zoomOut(holder) {
  const { xaxis, yaxis } = layoutOf(holder);
  const change = {};
  for (const [name, axis] of [["xaxis", xaxis], ["yaxis", yaxis]]) {
    if (axis.range) change[`${name}.range`] = axis.range;
    else change[`${name}.autorange`] = true;
  }
  Plotly.relayout(holder, change);
}

function startFigures() {
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target);
    }
  }, { rootMargin: "300px" });
  for (const holder of document.querySelectorAll(".plot")) {
    holder.style.minHeight = `${drawings[holder.dataset.figure].layout.height}px`;
    const title = holder.parentElement.querySelector("h3");
    const steps = element("p", undefined, "figure-steps");
    const unzoom = button("Zoom out", () => zoomOut(holder));
    unzoom.className = "unzoom";
    unzoom.hidden = true;
    const enlarging = button("Enlarge", () => enlarge(holder, enlarging));
    enlarging.className = "enlarge";
    enlarging.setAttribute("aria-pressed", "false");
    for (const each of [unzoom, enlarging]) each.setAttribute("aria-describedby", title.id);
    steps.append(unzoom, enlarging);
    title.after(steps);
    near.observe(holder);
  }
  for (const media of ["(prefers-color-scheme: dark)", "print"]) {
    matchMedia(media).addEventListener("change", drawAgain);
  }
  const rest = () => [...document.querySelectorAll(".plot")].filter((holder) => !drawn.has(holder));
  const whenIdle = globalThis.requestIdleCallback ?? ((action) => setTimeout(action, 200));
  const drawNext = () => {
    const [next] = rest();
    if (next) draw(next).then(() => whenIdle(drawNext));
  };
  whenIdle(drawNext);
  addEventListener("beforeprint", () => rest().forEach(draw));
}
