"use strict";
// The page says everything without this script. With it, marks of charts say their figures when
// they are pointed at or stepped through, and the table of trials can be filtered and completed.
(() => {
  const tip = document.getElementById("tip");
  let marked = null;

  function say(mark, x, y) {
    if (marked) marked.classList.remove("on");
    marked = mark;
    tip.hidden = !mark;
    if (!mark) return;
    mark.classList.add("on");
    tip.textContent = mark.dataset.say;
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${window.scrollX + Math.max(8, Math.min(x + 12, room))}px`;
    tip.style.top = `${window.scrollY + y + 16}px`;
  }

  for (const chart of document.querySelectorAll("figure svg")) {
    chart.addEventListener("pointermove", (event) => {
      say(event.target.closest("[data-say]"), event.clientX, event.clientY);
    });
    chart.addEventListener("pointerleave", () => say(null));
    chart.addEventListener("blur", () => say(null));
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (event.key === "Escape") say(null);
      if (!step) return;
      event.preventDefault();
      const marks = [...chart.querySelectorAll("[data-say]")];
      if (!marks.length) return;
      const at = marks.indexOf(marked);
      const next = marks[at < 0 ? (step > 0 ? 0 : marks.length - 1) : (at + step + marks.length) % marks.length];
      const place = next.getBoundingClientRect();
      say(next, place.left + place.width / 2, place.bottom);
    });
  }

  const body = document.querySelector("#all tbody");
  const more = document.getElementById("more");
  const rest = document.getElementById("rest");

  function cell(kind, text, figure) {
    const made = document.createElement(kind);
    made.textContent = text;
    if (figure) made.className = "n";
    return made;
  }

  function complete() {
    if (!more || more.hidden) return;
    more.hidden = true;
    const data = JSON.parse(rest.textContent);
    const figures = [...document.querySelectorAll("#all thead th")].map((head) => head.className === "n");
    const rows = document.createDocumentFragment();
    for (const packed of data.rows) {
      const row = document.createElement("tr");
      const texts = packed.slice(0, -1);
      texts.forEach((text, at) => row.append(cell(at ? "td" : "th", text, figures[at])));
      row.firstChild.scope = "row";
      const links = cell("td", "");
      links.className = "links";
      for (const name of data.files[packed.at(-1)]) {
        const link = cell("a", name);
        link.href = `../trials/${encodeURIComponent(texts[0])}/${encodeURIComponent(name)}`;
        links.append(link, " ");
      }
      row.append(links);
      rows.append(row);
    }
    body.append(rows);
  }

  if (more) {
    const button = more.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", complete);
  }
  if (body) {
    const input = document.getElementById("filter");
    const matches = document.getElementById("matches");
    input.closest("p").hidden = false;
    input.addEventListener("input", () => {
      complete();
      const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of body.rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !wanted.every((word) => text.includes(word));
        shown += row.hidden ? 0 : 1;
      }
      matches.textContent = wanted.length ? `${shown} of ${body.rows.length}` : "";
    });
  }

  // On paper nothing can be opened; browsers that cannot do this by style alone are helped.
  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const details of opened) details.open = false;
  });
})();
