"use strict";
const svg = document.querySelector("main svg");
const nodes = [...svg.querySelectorAll(".node")];
const edges = [...svg.querySelectorAll(".edge")];
const box = svg.viewBox.baseVal;

// Nodes by their number, which edges name.
const byNumber = new Map(nodes.map((node) => [node.dataset.at, node]));

function update() {
  const hidden = new Set(
    [...document.querySelectorAll("[data-hides]")]
      .filter((one) => !one.checked)
      .map((one) => one.dataset.hides),
  );
  const words = document.getElementById("search").value.trim().toLowerCase();
  const found = new Set();
  for (const node of nodes) {
    node.classList.toggle("hidden", hidden.has(node.dataset.namespace));
    if (words === "" || node.dataset.name.toLowerCase().includes(words)) found.add(node);
  }
  const lit = new Set(found);
  for (const edge of edges) {
    const ends = [byNumber.get(edge.dataset.from), byNumber.get(edge.dataset.to)];
    edge.classList.toggle("hidden", ends.some((end) => end.classList.contains("hidden")));
    const isFound =
      ends.some((end) => found.has(end)) || edge.textContent.toLowerCase().includes(words);
    edge.classList.toggle("faint", !isFound);
    if (isFound) ends.forEach((end) => lit.add(end));
  }
  for (const node of nodes) node.classList.toggle("faint", !lit.has(node));
}

document.querySelector("nav").addEventListener("input", update);

// The place in the picture that is under the pointer.
function under(event) {
  const point = new DOMPoint(event.clientX, event.clientY);
  return point.matrixTransform(svg.getScreenCTM().inverse());
}

svg.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const factor = event.deltaY > 0 ? 1.15 : 1 / 1.15;
    const at = under(event);
    box.x = at.x - (at.x - box.x) * factor;
    box.y = at.y - (at.y - box.y) * factor;
    box.width *= factor;
    box.height *= factor;
  },
  { passive: false },
);

let from = null;
svg.addEventListener("pointerdown", (event) => {
  from = under(event);
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (from === null) return;
  const at = under(event);
  box.x -= at.x - from.x;
  box.y -= at.y - from.y;
});
svg.addEventListener("pointerup", () => {
  from = null;
});
