"use strict";
(() => {
  for (const each of document.querySelectorAll("data[data-key]")) each.title = "report.json " + each.dataset.key + " = " + each.value;
  const source = document.getElementById("data");
  if (!source) return;
  const contexts = JSON.parse(source.textContent), STEP = 50, LONG = 2000;
  const $ = id => document.getElementById(id);
  const el = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const state = { context: 0, student: "", filter: "all", query: "", shown: STEP, rows: [] };
  const FILTERS = {
    all: () => true,
    lost: (student, reference) => student && reference && student[3] !== null && student[3] < reference[3],
    won: (student, reference) => student && reference && student[3] !== null && student[3] > reference[3],
    changed: student => student && !student[4],
    failed: student => student && student[2] !== null,
  };
  const here = () => contexts[state.context];
  const answer = said => said[1] === null ? null : said[1] === 1 ? said[0].trim() : said[1];
  const pair = row => [row[4][here().systems.indexOf(state.student)], row[4][here().systems.indexOf("teacher")]];
  const lower = new Map();
  const searched = row => {
    if (!lower.has(row)) lower.set(row, [row[0], row[1], row[2], row[3], ...row[4].map(said => said ? said[0] : "")].join("\n").toLowerCase());
    return lower.get(row);
  };

  function fold(text, name) {
    const box = el("div", name), inner = el("bdi");
    if (text.length <= LONG) inner.textContent = text;
    else {
      inner.textContent = text.slice(0, LONG);
      const button = el("button", "more", "show all " + text.length.toLocaleString("en") + " characters");
      button.onclick = () => { inner.textContent = text; button.remove(); };
      box.append(inner, " ", button);
      return box;
    }
    box.append(inner);
    return box;
  }

  function shaded(row) {
    const box = el("div");
    for (const system of columns().filter(name => name in row[6])) {
      const nats = row[6][system].map(value => value / 1000);
      box.append(el("h4", "", "Teacher's answer, shaded where " + system + " would have said something else (KL, nats)"));
      const line = el("div", "shaded"), inner = el("bdi");
      row[5].forEach((piece, n) => {
        const token = el("span", "", piece);
        token.style.background = "rgba(var(--accent-rgb)," + Math.min(.7, Math.max(0, nats[n]) / 4).toFixed(3) + ")";
        token.title = nats[n].toFixed(3) + " nats";
        inner.append(token);
      });
      line.append(inner);
      box.append(line);
    }
    return box;
  }

  function full(row) {
    const box = el("div", "full"), side = el("div", "side");
    here().systems.forEach((system, n) => {
      const said = row[4][n];
      if (!said) return;
      const part = el("div");
      part.append(el("h4", "", system + (said[3] === null ? "" : " · " + here().metric + " " + said[3]) + (said[2] === null ? "" : " · not extracted: " + said[2])));
      part.append(fold(said[0], "text"));
      if (said[1] !== null && said[1] !== 1) part.append(el("h4", "", "extracted"), fold(said[1], "text"));
      side.append(part);
    });
    box.append(side, shaded(row), el("h4", "", "Student's prompt"));
    box.append(fold(here().student[0] + row[3] + here().student[1], "prompt"));
    if (here().teacher) {
      const own = row[2] === null ? row[3] : row[2], gone = here().teacher[0].length + here().teacher[1].length;
      const button = el("button", "more", "show the teacher's prompt (" + (gone + own.length).toLocaleString("en") + " characters)");
      button.onclick = () => button.replaceWith(el("h4", "", "Teacher's prompt"), fold(here().teacher[0] + own + here().teacher[1], "prompt"));
      box.append(button);
    }
    return box;
  }

  function cell(label, text, name) {
    const box = el("span", "cell" + (name || ""));
    box.append(el("span", "label", label + ": "), el("bdi", "", text.slice(0, 300)));
    return box;
  }

  function line(row) {
    const box = el("div", "ex"), button = el("button", "line"), seen = columns(), reference = pair(row)[1];
    button.setAttribute("aria-expanded", "false");
    button.append(cell("input", row[3]), cell("gold", row[1]));
    for (const system of seen) {
      const said = row[4][here().systems.indexOf(system)];
      const text = said ? answer(said) : null;
      const worse = system === state.student && said && reference && said[3] !== null && said[3] < reference[3];
      button.append(cell(system, text === null ? (said ? "not extracted: " + said[2] : "–") : text, text === null ? " empty" : worse ? " miss" : ""));
    }
    let open = null;
    button.onclick = () => {
      if (open) { open.remove(); open = null; } else { open = full(row); box.append(open); }
      button.setAttribute("aria-expanded", String(!!open));
    };
    box.append(button);
    return box;
  }

  const columns = () => ["teacher", "before", state.student].filter(system => here().systems.includes(system));

  function draw() {
    const list = $("list"), last = list.children.length;
    for (const row of state.rows.slice(last, state.shown)) list.append(line(row));
    $("more").hidden = state.rows.length <= state.shown;
  }

  function choose() {
    const query = state.query.toLowerCase(), rows = here().rows;
    state.rows = rows.filter(row => FILTERS[state.filter](...pair(row)) && (!query || searched(row).includes(query)));
    state.shown = STEP;
    $("found").textContent = state.rows.length.toLocaleString("en") + " of " + rows.length.toLocaleString("en") + " examples. Click one for the full answers, the tokens and the prompts.";
    for (const button of $("filters").children) button.setAttribute("aria-pressed", String(button.dataset.filter === state.filter));
    $("list").replaceChildren();
    draw();
  }

  function enter() {
    const select = $("student");
    select.replaceChildren(...here().students.map(name => el("option", "", name)));
    select.selectedIndex = here().students.length - 1;
    select.hidden = here().students.length < 2;
    state.student = here().students[here().students.length - 1] || "";
    heads();
  }

  function heads() {
    $("filters").replaceChildren();
    for (const name of Object.keys(FILTERS)) {
      const count = here().rows.filter(row => FILTERS[name](...pair(row))).length;
      if (!here().systems.includes("teacher") && name !== "all" && name !== "failed") continue;
      const button = el("button", "", name + " " + count.toLocaleString("en"));
      button.dataset.filter = name;
      button.onclick = () => { state.filter = name; choose(); };
      $("filters").append(button, " ");
    }
    const names = ["input", "gold", ...columns()];
    document.body.style.setProperty("--cols", names.length - 1);
    $("heads").replaceChildren(...names.map(name => el("span", "", name)));
  }

  $("context").append(...contexts.map(each => el("option", "", each.context)));
  $("context").hidden = contexts.length < 2;
  $("context").onchange = event => { state.context = event.target.selectedIndex; state.filter = "all"; enter(); choose(); };
  $("student").onchange = event => { state.student = event.target.value; heads(); choose(); };
  let wait = 0;
  $("query").oninput = event => { clearTimeout(wait); wait = setTimeout(() => { state.query = event.target.value; choose(); }, 120); };
  $("more").onclick = () => { state.shown += STEP; draw(); };
  enter();
  choose();
})();
