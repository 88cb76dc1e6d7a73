// Pointer, wheel and keys on the family tree.
const drag = { pointers: new Map(), moved: false, spread: 0 };

function inside(event) {
  const box = byId("tree").getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

function onMove(event) {
  if (!drag.pointers.has(event.pointerId)) return;
  const [x, y] = drag.pointers.get(event.pointerId);
  const [dx, dy] = [event.clientX - x, event.clientY - y];
  if (drag.pointers.size === 1) {
    if (!drag.moved && Math.hypot(dx, dy) < 5) return;
    if (!drag.moved) byId("tree").setPointerCapture(event.pointerId);
    drag.moved = true;
    pan(dx, dy);
  }
  drag.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  if (drag.pointers.size === 2) {
    const [[ax, ay], [bx, by]] = [...drag.pointers.values()];
    const spread = Math.hypot(ax - bx, ay - by);
    if (drag.spread) zoom(spread / drag.spread, ...inside({ clientX: (ax + bx) / 2, clientY: (ay + by) / 2 }));
    drag.spread = spread;
    drag.moved = true;
  }
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const members = families.get(tree.family);
  const at = members.indexOf(state.selected);
  const kin = (map, end) => (map.get(state.selected) || []).map((edge) => edge[end])[0];
  const go = (m) => m !== undefined && choose(m, true);
  const arrows = { ArrowUp: [0, 60], ArrowDown: [0, -60], ArrowLeft: [60, 0], ArrowRight: [-60, 0] };
  const actions = {
    ArrowDown: () => go(members[Math.min(at + 1, members.length - 1)]),
    ArrowUp: () => go(members[Math.max(at - 1, 0)]),
    ArrowLeft: () => go(kin(parentsOf, "parent")),
    ArrowRight: () => go(kin(childrenOf, "child")),
    Home: () => go(members[0]),
    End: () => go(members[members.length - 1]),
    "+": () => zoom(1.4),
    "=": () => zoom(1.4),
    "-": () => zoom(1 / 1.4),
    0: () => { fit(true); showWindow(); },
  };
  if (event.shiftKey && arrows[event.key]) pan(...arrows[event.key]);
  else if (actions[event.key]) actions[event.key]();
  else return;
  event.preventDefault();
}

function setUpTree() {
  if (!families.size) {
    byId("family-tree").classList.add("none");
    return;
  }
  [...families.keys()].sort((a, b) => a - b).forEach((f) => {
    const members = families.get(f);
    byId("family").append(make("option", { value: f }, `${familyName(members)} (${count(members.length)} models)`));
  });
  if (DATA.is_point) byId("colour").querySelector('[value="width"]').disabled = true;
  byId("family").addEventListener("change", (event) => {
    tree.family = Number(event.target.value);
    fit(false);
    drawTree();
  });
  byId("colour").addEventListener("change", (event) => {
    tree.colour = event.target.value;
    drawTree();
  });
  byId("tree-form").addEventListener("submit", (event) => {
    event.preventDefault();
    findInTree();
  });
  byId("zoom-in").addEventListener("click", () => zoom(1.5));
  byId("zoom-out").addEventListener("click", () => zoom(1 / 1.5));
  byId("zoom-fit").addEventListener("click", () => { fit(true); showWindow(); });
  const box = byId("tree");
  box.addEventListener("keydown", onKey);
  box.addEventListener("pointerdown", (event) => {
    if (!drag.pointers.size) drag.moved = false;
    drag.spread = 0;
    drag.pointers.set(event.pointerId, [event.clientX, event.clientY]);
  });
  box.addEventListener("pointermove", onMove);
  for (const end of ["pointerup", "pointercancel", "pointerleave"]) {
    box.addEventListener(end, (event) => {
      drag.pointers.delete(event.pointerId);
      drag.spread = 0;
    });
  }
  // A wheel alone scrolls the page past the tree.
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 200), ...inside(event));
  }, { passive: false });
}
