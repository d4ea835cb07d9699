// Keys, where nobody is typing.

const isOpen = () => !byId("chain").hidden;

const KEYS = {
  "/": () => {
    byId("find").focus();
    byId("find").select();
  },
  "?": () => byId("help").showModal(),
  j: () => (isOpen() ? moveToTurn(1, "") : moveInList(1)),
  k: () => (isOpen() ? moveToTurn(-1, "") : moveInList(-1)),
  n: () => moveToTurn(1, ".taken-over"),
  N: () => moveToTurn(-1, ".taken-over"),
  ArrowRight: () => (isOpen() ? step(1) : turnPage(byId("forth").disabled ? 0 : 1)),
  ArrowLeft: () => (isOpen() ? step(-1) : turnPage(-1)),
  Escape: () => isOpen() && close(),
};

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const { key, target } = event;
  if (key === "Escape" && target === byId("find")) {
    target.blur(); // the browser empties the field
    return;
  }
  if (target.closest("input, select, textarea, [contenteditable]")) return;
  // Arrows scroll what can be scrolled; up and down move in the list alone.
  if (key.startsWith("Arrow") && target.closest(".scroll, pre")) return;
  const inList = byId("rows").contains(target);
  const actions = inList ? { ...KEYS, ArrowDown: () => moveInList(1), ArrowUp: () => moveInList(-1) } : KEYS;
  if (!Object.hasOwn(actions, key)) return;
  event.preventDefault();
  actions[key]();
}

function startKeys() {
  addEventListener("keydown", onKey);
  byId("help-button").hidden = false;
  byId("help-button").addEventListener("click", KEYS["?"]);
}
