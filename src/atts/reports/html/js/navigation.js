// The section that one is in is marked in the menu, which is folded on a narrow screen.

function unfold(open) {
  byId("menu-button").setAttribute("aria-expanded", String(open));
  byId("menu").classList.toggle("open", open);
}

function markSection() {
  const links = [...byId("sections").querySelectorAll("a")];
  const above = links.filter((link) => {
    const section = byId(link.hash.slice(1));
    return section && section.getBoundingClientRect().top < innerHeight / 3;
  });
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const current = (atEnd && scrollY > 0 ? links.at(-1) : above.at(-1)) ?? links[0];
  for (const link of links) {
    if (link === current) link.setAttribute("aria-current", "location");
    else link.removeAttribute("aria-current");
  }
  byId("here").textContent = current.textContent;
}

function startNavigation() {
  byId("menu").classList.add("folds"); // without scripts it lies open
  byId("menu-button").hidden = false;
  byId("menu-button").addEventListener("click", () => unfold(!byId("menu").classList.contains("open")));
  byId("sections").addEventListener("click", () => unfold(false));
  let waiting = false;
  const later = () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      markSection();
    });
  };
  addEventListener("scroll", later, { passive: true });
  addEventListener("resize", later);
  markSection();
}
