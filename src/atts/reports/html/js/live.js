// A page that is served while its runs go on is loaded anew when they have grown, and looks as before.

const PLACE = "atts report, before it was renewed";

function inputs() {
  return [...document.querySelectorAll("#filter select, #filter input")];
}

function startLive() {
  const { version } = document.documentElement.dataset;
  if (!version) return;
  const kept = sessionStorage.getItem(PLACE);
  sessionStorage.removeItem(PLACE);
  if (kept) {
    const { values, top } = JSON.parse(kept);
    for (const input of inputs()) {
      if (!(input.id in values)) continue;
      input.value = values[input.id];
      input.dispatchEvent(new Event("input", { bubbles: true }));
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }
    requestAnimationFrame(() => scrollTo(0, top));
  }
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const reply = await fetch("/version", { cache: "no-store" });
      if (!reply.ok || (await reply.text()) === version) return;
    } catch {
      return; // the server is gone: what is here stays
    }
    const values = Object.fromEntries(inputs().map((input) => [input.id, input.value]));
    sessionStorage.setItem(PLACE, JSON.stringify({ values, top: scrollY }));
    location.reload();
  }, 5000);
}
