"use strict";
// The table of expert profiles is complete without this file, which sorts and filters it.
{
  const table = document.querySelector(".profiles");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headers = [...table.tHead.rows[0].cells];
  const column = (name) => headers.findIndex((header) => header.textContent === name);
  const [layer, expert, dataset, token] = ["Layer", "Expert", "Top dataset", "Top tokens"].map(column);

  // A cell's number, or its text where it has none; cells without either come last in both directions.
  const key = (cell) => (cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value));
  const compare = (one, other) => {
    if (typeof one !== typeof other) return typeof one === "number" ? -1 : 1;
    return typeof one === "number" ? one - other : one.localeCompare(other, "en");
  };

  const sort = (position, direction) => {
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[position].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const keyed = rows.map((row) => [key(row.cells[position]), row]);
    keyed.sort(([one], [other]) => (typeof one === typeof other ? sign : 1) * compare(one, other));
    body.append(...keyed.map(([, row]) => row));
  };

  headers.forEach((header, position) => {
    const first = header.dataset.sort;
    if (!first) return;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = header.textContent;
    button.addEventListener("click", () => {
      const opposite = first === "ascending" ? "descending" : "ascending";
      sort(position, header.getAttribute("aria-sort") === first ? opposite : first);
    });
    header.replaceChildren(button);
  });

  const field = (name) => document.getElementById(`filter-${name}`);
  const texts = rows.map((row) =>
    [...row.cells[token].children].map((code) => (code.title || code.textContent).toLowerCase()),
  );
  const datasets = [...field("dataset").options].map((option) => option.value);
  const names = rows.map((row) => {
    const text = row.cells[dataset].textContent;
    return datasets.find((name) => name && text.startsWith(`${name} `));
  });
  const filter = () => {
    const wanted = Object.fromEntries(["layer", "expert", "dataset", "token"].map((name) => [name, field(name).value]));
    let shown = 0;
    rows.forEach((row, index) => {
      const fits =
        ["", row.cells[layer].textContent].includes(wanted.layer) &&
        ["", row.cells[expert].textContent].includes(wanted.expert.trim()) &&
        ["", names[index]].includes(wanted.dataset) &&
        (!wanted.token || texts[index].some((text) => text.includes(wanted.token.toLowerCase())));
      row.hidden = !fits;
      shown += fits;
    });
    document.querySelector(".filters output").textContent =
      `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} experts`;
  };
  document.querySelector(".filters").addEventListener("input", filter);
  document.querySelector(".filters").hidden = false;
}
