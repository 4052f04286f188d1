"use strict";
// The table of expert profiles. Its rows are drawn from the data in the page as the reader scrolls, because a page with
// thousands of them would open slowly. It is sorted and filtered, and ranks all experts for datasets that the reader ticks.
// The view is in the address after #, so that links lead to it.
{
  const AT_ONCE = 100; // rows that are drawn, and then so many more
  const LONGEST = 24; // characters of a token that are shown

  const table = document.querySelector(".profiles");
  const body = table.tBodies[0];
  const box = table.closest(".scroll");
  const field = (name) => document.getElementById(`filter-${name}`);
  const boxes = [...document.querySelectorAll(".for input")];
  const rows = JSON.parse(document.getElementById("rows").textContent);
  const { folder, browser } = table.dataset;
  const FILTERS = ["layer", "expert", "token"];

  const count = (number) => number.toLocaleString("en");
  const mean = (numbers) => numbers.reduce((total, number) => total + number, 0) / numbers.length;
  const decimal = (value, digits) => (value === null ? "not available" : value.toFixed(digits));
  const percent = (share, digits = 1) => (share === null ? "not available" : `${(100 * share).toFixed(digits)}\u00a0%`);
  const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  // ---- What stands in the columns: by their title a row's cell, and by what it is sorted, a number, a text or null ----

  const limits = (low, high) =>
    low === null ? [] : [" ", make("span", { class: "interval" }, `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}]`)];
  const share = ([estimate, low, high]) => [percent(estimate), ...limits(low, high)];
  const expert = (row, others, words) =>
    browser ? make("a", { href: `${browser}#tab=experts&l=${row.layer}&e=${others}` }, words) : words;
  const others = (row, listed, words) =>
    listed.flatMap(([other, number], i) => {
      const pair = [row.expert, other].sort((one, two) => one - two);
      return [i ? ", " : "", expert(row, pair, `${other}`), words(number)];
    });
  const visible = (text) =>
    text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (found) => `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`);
  const codes = (tokens) =>
    tokens.flatMap((token, i) => {
      const text = visible(token);
      const short = text.length > LONGEST ? `${text.slice(0, LONGEST - 1)}…` : text;
      return [i ? " " : "", make("code", short === text ? {} : { title: text }, short)];
    });
  const ranks = ({ ranks: numbers }) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const label = `${numbers.map(count).join(", ")} tokens`;
    const size = { width: 5 * numbers.length, height: 18, role: "img", "aria-label": label };
    for (const [key, value] of Object.entries(size)) svg.setAttribute(key, value);
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    const most = Math.max(...numbers) || 1;
    path.setAttribute("d", numbers.map((number, i) => `M${5 * i + 2} 18v-${((17 * number) / most).toFixed(1)}`).join(""));
    svg.append(path);
    return svg;
  };
  const more = (row) => {
    const of = `layer ${row.layer}, expert ${row.expert}`;
    const json = make("a", { href: `${folder}/${encoded(row.file)}`, "aria-label": `JSON of ${of}` }, "JSON");
    const shown = browser && expert(row, row.expert, "Browse");
    if (shown) shown.setAttribute("aria-label", `Browse ${of}`);
    return shown ? [json, " ", shown] : json;
  };
  const typesOf = ({ types }) =>
    types.map((one) => `${one.type} ${percent(one.share.estimate, 0)}\u00a0(${percent(one.share_of_all_tokens, 0)})`).join(", ");

  let ticked = []; // places of the ticked datasets
  const ranked = ({ shares }) => {
    const chosen = ticked.map((dataset) => shares[dataset]);
    const [here, average] = [chosen, shares].map((all) => mean(all.map(([estimate]) => estimate)));
    return { here, average, difference: here - average, chosen };
  };
  const rankedShare = (row) => {
    const { here, chosen } = ranked(row);
    return [percent(here), ...(chosen.length === 1 ? limits(chosen[0][1], chosen[0][2]) : [])];
  };
  const rankedDifference = (row) => {
    const { difference, chosen } = ranked(row);
    const mark = chosen.every(([, , , out]) => out) ? "\u00a0✱" : "";
    return `${difference < 0 ? "−" : "+"}${(100 * Math.abs(difference)).toFixed(1)}${mark}`;
  };

  const COLUMNS = {
    Layer: [({ layer }) => layer, ({ layer }) => layer],
    Expert: [({ expert: number }) => number, ({ expert: number }) => number],
    More: [more],
    Share: [rankedShare, (row) => ranked(row).here],
    Average: [(row) => percent(ranked(row).average), (row) => ranked(row).average],
    Difference: [rankedDifference, (row) => ranked(row).difference],
    Load: [({ load }) => share(load), ({ load }) => load[0]],
    "Times even": [(row) => decimal(row.times_even, 2), (row) => row.times_even],
    First: [(row) => percent(row.first_share), (row) => row.first_share],
    Entropy: [({ entropy }) => decimal(entropy, 3), ({ entropy }) => entropy],
    "Top dataset": [({ domain: [name, ...its] }) => [`${name} `, ...share(its)], ({ domain }) => domain[1]],
    "Token types": [typesOf, (row) => typesOf(row) || null],
    "Top tokens": [({ tokens }) => codes(tokens)],
    "Specific tokens": [({ specific }) => codes(specific)],
    Partners: [
      (row) => others(row, row.partners, (lift) => `\u00a0×\u00a0${decimal(lift, 1)}`),
      ({ partners }) => partners[0]?.[1] ?? null,
    ],
    Nearest: [
      (row) => others(row, row.nearest, (cosine) => `\u00a0(${decimal(cosine, 2)})`),
      ({ nearest }) => nearest[0]?.[1] ?? null,
    ],
    Promotes: [({ promoted }) => codes(promoted)],
    Label: [({ label: [name, ...its] }) => (name ? [`${name} `, ...share(its)] : []), ({ label }) => label[1] ?? null],
    Ranks: [ranks],
  };

  const headers = [...table.tHead.rows[0].cells];
  const titles = headers.map((header) => header.textContent);
  const drawn = (row) => {
    const cells = headers.map((header, i) => {
      if (header.matches(".ranked") && !ticked.length) return make("td", { role: "cell", class: "ranked" });
      const [cell] = COLUMNS[titles[i]];
      const name = i === 1 ? "th" : "td";
      const kind = header.matches(".ranked") ? { class: "ranked" } : {};
      const role = i === 1 ? { scope: "row", role: "rowheader" } : { role: "cell" };
      return make(name, { ...role, ...kind }, ...[cell(row)].flat());
    });
    return make("tr", { role: "row", id: `layer-${row.layer}-expert-${row.expert}` }, ...cells);
  };

  // ---- Which rows, in which order, and how many of them are drawn ----

  let shown = rows;
  const draw = (number) => {
    const have = body.rows.length;
    body.append(...shown.slice(have, have + number).map(drawn));
  };
  const redraw = () => {
    body.replaceChildren();
    box.scrollTop = 0;
    table.setAttribute("aria-rowcount", shown.length + 1);
    draw(AT_ONCE);
  };
  const drawMore = () => {
    if (body.rows.length < shown.length && box.scrollTop + 2 * box.clientHeight > box.scrollHeight) draw(AT_ONCE);
  };
  box.addEventListener("scroll", drawMore);
  window.addEventListener("beforeprint", () => draw(shown.length));

  const slug = (text) => text.toLowerCase().replaceAll(" ", "-");
  const opposite = { ascending: "descending", descending: "ascending" };
  const has = (wanted) => (row) => {
    row.texts ??= [...row.tokens, ...row.specific, ...row.own].map((text) => text.toLowerCase());
    return row.texts.some((text) => text.includes(wanted));
  };
  const compare = (one, other) => (typeof one === "number" ? one - other : one.localeCompare(other, "en"));

  // By a column in the direction that it has first, or in the other one after a minus; rows without a value come last.
  const arrange = () => {
    const usual = ticked.length ? "share" : "layer";
    const named = headers.findIndex((header, i) => header.dataset.sort && slug(titles[i]) === state.sort.replace(/^-/, ""));
    const position = named < 0 ? titles.findIndex((title) => slug(title) === usual) : named;
    const first = headers[position].dataset.sort;
    const direction = state.sort.startsWith("-") && named >= 0 ? opposite[first] : first;
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[position].setAttribute("aria-sort", direction);
    const sign = direction === "ascending" ? 1 : -1;
    const [, key] = COLUMNS[titles[position]];
    const fits = [
      ({ layer }) => ["", `${layer}`].includes(state.layer),
      ({ expert: number }) => ["", `${number}`].includes(state.expert.trim()),
      ...(state.token ? [has(state.token.toLowerCase())] : []),
    ];
    const keyed = rows.filter((row) => fits.every((fit) => fit(row))).map((row) => [key(row), row]);
    const [known, unknown] = [true, false].map((there) => keyed.filter(([value]) => (value !== null) === there));
    known.sort(([one], [other]) => sign * compare(one, other));
    shown = [...known, ...unknown].map(([, row]) => row);
    document.querySelector(".filters output").textContent = `${count(shown.length)} of ${count(rows.length)} experts`;
    redraw();
  };

  headers.forEach((header, i) => {
    if (!header.dataset.sort) return;
    const name = slug(titles[i]);
    const button = make("button", { type: "button" }, titles[i]);
    button.addEventListener("click", () => {
      state.sort = header.getAttribute("aria-sort") === header.dataset.sort ? `-${name}` : name;
      keep();
      arrange();
    });
    header.replaceChildren(button);
  });

  // ---- The view and its address ----

  const state = {};
  const KEYS = ["for", "sort", ...FILTERS];
  const keep = () => {
    const pairs = KEYS.map((name) => [name, state[name]]).filter(([, value]) => value);
    history.replaceState(null, "", `#${new URLSearchParams(pairs)}`.replaceAll("%2C", ","));
  };
  const show = () => {
    const named = state.for.split(",");
    boxes.forEach((each) => (each.checked = named.includes(each.value)));
    FILTERS.forEach((name) => field(name).value === state[name] || (field(name).value = state[name]));
    ticked = boxes.flatMap((each, dataset) => (each.checked ? [dataset] : []));
    table.classList.toggle("ranking", ticked.length > 0);
    arrange();
  };
  const read = () => {
    const hash = new URLSearchParams(location.hash.slice(1));
    const [, layer, number] = /^#layer-(\d+)-expert-(\d+)$/.exec(location.hash) ?? [];
    if (body.rows.length && location.hash && !layer && !location.hash.includes("=")) return; // a link within the page
    KEYS.forEach((name) => (state[name] = hash.get(name) ?? ""));
    show();
    const place = shown.findIndex((row) => `${row.layer},${row.expert}` === `${layer},${number}`);
    if (place < 0) return;
    draw(place + 1);
    body.rows[place].scrollIntoView();
  };

  boxes.forEach((each) =>
    each.addEventListener("change", () => {
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
      arrange();
    }),
  );
  window.addEventListener("hashchange", read);
  read();
  document.querySelector(".filters").hidden = false;
}
