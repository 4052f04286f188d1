"use strict";
// The table of expert profiles is complete without this file, which sorts and filters it, and ranks all experts for
// datasets that the reader ticks. The view is in the address after #, so that links lead to it.
{
  const table = document.querySelector(".profiles");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const field = (name) => document.getElementById(`filter-${name}`);
  const boxes = [...document.querySelectorAll(".for input")];
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const own = data("own"); // tokens that mostly choose the expert first, by row
  const shares = data("shares"); // [share, low, high, stands out] by row, dataset
  const FILTERS = ["layer", "expert", "token"];
  const count = (number) => number.toLocaleString("en");

  // ---- The columns of the ticked datasets, after those that name the expert ----

  const BEFORE = 3;
  const RANKED = ["Share", "Average", "Difference"];
  const insert = (row, cells) => row.cells[BEFORE].before(...cells);
  const element = (name, role) => {
    const made = document.createElement(name);
    made.className = "ranked";
    made.setAttribute("role", role);
    return made;
  };
  insert(
    table.tHead.rows[0],
    RANKED.map((title) => {
      const header = element("th", "columnheader");
      header.scope = "col";
      header.dataset.sort = "descending";
      header.textContent = title;
      return header;
    }),
  );
  rows.forEach((row) =>
    insert(
      row,
      RANKED.map(() => element("td", "cell")),
    ),
  );

  const mean = (numbers) => numbers.reduce((total, number) => total + number, 0) / numbers.length;
  const percent = (share, digits = 1) => (100 * share).toFixed(digits);

  const rank = (ticked) => {
    table.classList.toggle("ranking", ticked.length > 0);
    if (!ticked.length) return;
    rows.forEach((row, i) => {
      const chosen = ticked.map((dataset) => shares[i][dataset]);
      const share = mean(chosen.map(([estimate]) => estimate));
      const average = mean(shares[i].map(([estimate]) => estimate));
      const difference = share - average;
      const cells = [...row.cells].slice(BEFORE, BEFORE + RANKED.length);
      const interval = document.createElement("span");
      interval.className = "interval";
      const [, low, high] = chosen[0];
      if (chosen.length === 1 && low !== null) interval.textContent = ` [${percent(low)}, ${percent(high)}]`;
      const mark = chosen.every(([, , , out]) => out) ? "\u00a0✱" : "";
      cells[0].replaceChildren(`${percent(share)}\u00a0%`, interval);
      cells[1].textContent = `${percent(average)}\u00a0%`;
      cells[2].textContent = `${difference < 0 ? "−" : "+"}${percent(Math.abs(difference))}${mark}`;
      [share, average, difference].forEach((value, column) => (cells[column].dataset.value = value));
    });
  };

  // ---- Order ----

  const headers = [...table.tHead.rows[0].cells];
  const sortable = new Map(); // position of a column by its name in the address
  const slug = (text) => text.toLowerCase().replaceAll(" ", "-");
  const opposite = { ascending: "descending", descending: "ascending" };

  // A cell's number, or its text where it has none; cells without either come last in both directions.
  const key = (cell) => (cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value));
  const compare = (one, other) => {
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return typeof one === "number" ? one - other : one.localeCompare(other, "en");
  };

  // By a column in the direction that it has first, or in the other one after a minus.
  const sort = (name) => {
    const position = sortable.get(name.replace(/^-/, "")) ?? sortable.get("layer");
    const first = headers[position].dataset.sort;
    const direction = name.startsWith("-") ? opposite[first] : first;
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[position].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => [key(row.cells[position]), row]);
    keyed.sort(([one], [other]) => (typeof one === typeof other ? sign : 1) * compare(one, other));
    body.append(...keyed.map(([, row]) => row));
  };

  headers.forEach((header, position) => {
    if (!header.dataset.sort) return;
    const name = slug(header.textContent);
    sortable.set(name, position);
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => {
      state.sort = header.getAttribute("aria-sort") === header.dataset.sort ? `-${name}` : name;
      keep();
      sort(state.sort);
    });
    header.replaceChildren(button);
  });

  // ---- Which experts are shown ----

  const column = (name) => headers.findIndex((header) => header.textContent === name);
  const [layer, expert] = ["Layer", "Expert"].map(column);
  const texts = rows.map((row, i) => {
    const shown = [...row.getElementsByTagName("code")].map((code) => code.title || code.textContent);
    return [...shown, ...own[i]].map((text) => text.toLowerCase());
  });
  const filter = () => {
    let shown = 0;
    rows.forEach((row, index) => {
      const fits =
        ["", row.cells[layer].textContent].includes(state.layer) &&
        ["", row.cells[expert].textContent].includes(state.expert.trim()) &&
        (!state.token || texts[index].some((text) => text.includes(state.token.toLowerCase())));
      row.hidden = !fits;
      shown += fits;
    });
    document.querySelector(".filters output").textContent = `${count(shown)} of ${count(rows.length)} experts`;
  };

  // ---- The view and its address ----

  const state = {};
  const KEYS = ["for", "sort", ...FILTERS];
  const keep = () => {
    const pairs = KEYS.map((name) => [name, state[name]]).filter(([, value]) => value);
    history.replaceState(null, "", `#${new URLSearchParams(pairs)}`.replaceAll("%2C", ","));
  };
  const show = () => {
    const named = state.for.split(",");
    boxes.forEach((box) => (box.checked = named.includes(box.value)));
    FILTERS.forEach((name) => field(name).value === state[name] || (field(name).value = state[name]));
    rank(boxes.flatMap((box, dataset) => (box.checked ? [dataset] : [])));
    sort(state.sort || (table.classList.contains("ranking") ? "share" : "layer"));
    filter();
  };
  const read = () => {
    if (location.hash && !location.hash.includes("=")) return; // a link to a row, or within the page
    const hash = new URLSearchParams(location.hash.slice(1));
    KEYS.forEach((name) => (state[name] = hash.get(name) ?? ""));
    show();
  };

  boxes.forEach((box) =>
    box.addEventListener("change", () => {
      state.for = boxes.flatMap(({ checked, value }) => (checked ? [value] : [])).join(",");
      state.sort = "";
      keep();
      show();
    }),
  );
  FILTERS.forEach((name) =>
    field(name).addEventListener("input", (event) => {
      state[name] = event.target.value;
      keep();
      filter();
    }),
  );
  window.addEventListener("hashchange", read);
  KEYS.forEach((name) => (state[name] = ""));
  read();
  document.querySelector(".filters").hidden = false;
}
