"use strict";
// Does to the page what a reader does, and leaves as JSON what is to be seen after each step.
{
  const isSeen = (one) => one.getBoundingClientRect().width > 0;
  const isBright = (one) => Number(getComputedStyle(one).opacity) === 1;
  const seen = (selector) => [...document.querySelectorAll(selector)].filter(isSeen);
  const name = (node) => node.dataset.name;
  const ports = (edge) => edge.querySelector("text").textContent;
  const picture = () => ({
    nodes: seen(".node").map(name),
    bright: seen(".node").filter(isBright).map(name),
    edges: seen(".edge").map(ports),
  });

  const outcome = { first: picture() };
  const find = (words) => {
    const search = document.getElementById("search");
    search.value = words;
    search.dispatchEvent(new Event("input", { bubbles: true }));
  };
  find("CRON");
  outcome.searched = picture();
  find("nobody");
  outcome.notFound = picture();
  find("");
  const other = document.querySelector('[data-hides="other"]');
  other.click();
  outcome.hidden = picture();
  other.click();
  outcome.shownAgain = picture();

  const svg = document.querySelector("main svg");
  const box = svg.viewBox.baseVal;
  const { width } = box;
  svg.dispatchEvent(new WheelEvent("wheel", { deltaY: -1, clientX: 500, clientY: 300 }));
  outcome.zoom = width / box.width;
  const { x } = box;
  // No pointer is down really, so that there is none to capture.
  svg.setPointerCapture = () => {};
  const point = (kind, clientX) =>
    svg.dispatchEvent(new PointerEvent(kind, { clientX, clientY: 300, pointerId: 1 }));
  point("pointerdown", 500);
  point("pointermove", 600);
  point("pointerup", 600);
  point("pointermove", 900);
  outcome.panned = box.x - x;

  fetch("probe.html").then(
    () => "answered",
    () => "refused",
  ).then((answer) => {
    outcome.loading = answer;
    const text = document.createElement("pre");
    text.id = "outcome";
    text.textContent = JSON.stringify(outcome);
    document.body.append(text);
  });
}
