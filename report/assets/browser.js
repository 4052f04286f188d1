"use strict";
// The expert browser. Its data are classic scripts that each call `put` once: pages opened by double-click may
// load scripts, but not fetch files. The view is in the address after #, so links and the back button work. Every text
// of the data becomes a text node: nothing in it can act.
{
  const MOST = 3; // experts in a set
  const CUT = /^(.{48}).+$/su; // how much of a long token is shown
  const ROWS = 50; // tokens found
  const SPECIFIC = 20; // sets of a layer
  const PARTNERS = 12;
  const [ABOVE, BELOW] = [6, 3]; // partners by lift
  const BESIDE = 10; // contexts in a column
  const OCCURRENCES = 20; // contexts of a token
  const COLOURS = 6;
  // Marks of the datasets of a map, by turns, with a colour each.
  const MARKS = [
    "M-8 0a8 8 0 1 0 16 0a8 8 0 1 0-16 0Z",
    "M-7-7h14v14h-14Z",
    "M0-10 8 7H-8Z",
    "M0-10 10 0 0 10-10 0Z",
    "M0 10 8-7H-8Z",
    "M-3-10h6v7h7v6h-7v7h-6v-7h-7v-6h7Z",
  ];
  const TABS = {
    experts: { l: "", e: "0", mode: "subset", with: "", show: "", in: "" },
    tokens: { q: "", how: "part", l: "", v: "", where: "" },
    texts: { t: "0", l: "", p: "0", d: "", at: "", all: "" },
  };

  const byId = (id) => document.getElementById(id);

  // ---- Data scripts ----

  class Problem extends Error {} // a sentence for the reader
  const STALE = Symbol("another view was asked for meanwhile");
  const { browserBuild, foundBuild } = document.documentElement.dataset;
  const isFound = (id) => id.startsWith("found/"); // by the chapters; the profiles' folder has them
  const contents = new Map(); // promise of the content by id
  const waiting = new Map(); // what settles the promise, until the script has called `put`
  let turn = 0; // number of the view that is being shown

  const address = (id) => {
    const { folder, found } = byId("browser").dataset;
    return `${isFound(id) ? found : folder}/${id.split("/").map(encodeURIComponent).join("/")}.js`;
  };

  const inflated = async (text) => {
    const binary = atob(text);
    const bytes = new Uint8Array(binary.length);
    for (let i = 0; i < bytes.length; i++) bytes[i] = binary.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };

  window.put = async (id, itsBuild, kind, text) => {
    const { done, failed } = waiting.get(id);
    const build = isFound(id) ? foundBuild : browserBuild;
    waiting.delete(id);
    if (itsBuild !== build) {
      failed(
        new Problem(
          `The file ${address(id)} is of build ${itsBuild}, but this page is of build ${build}: copy the whole report again.`,
        ),
      );
      return;
    }
    try {
      const bytes = await inflated(text);
      done(kind === "json" ? JSON.parse(new TextDecoder().decode(bytes)) : bytes);
    } catch {
      failed(new Problem(`The file ${address(id)} is damaged: copy the whole report again.`));
    }
  };

  const request = (id) =>
    new Promise((done, failed) => {
      const missing = () =>
        failed(new Problem(`The file ${address(id)} is missing or cannot be read: copy the whole report again.`));
      const script = make("script", { src: address(id) });
      script.addEventListener("error", missing);
      script.addEventListener("load", () => waiting.has(id) && missing());
      waiting.set(id, { done, failed });
      document.head.append(script);
    });

  const content = (id) => {
    if (!contents.has(id)) contents.set(id, request(id));
    return contents.get(id);
  };

  // The contents of data scripts; stops the view that asked if another one has been asked for meanwhile.
  const load = async (...ids) => {
    const mine = turn;
    const found = await Promise.all(ids.map(content));
    if (mine !== turn) throw STALE;
    return found;
  };

  // The same for ids by a name each; those that are not there are left out.
  const gather = async (ids) => {
    const asked = Object.entries(ids).filter(([, id]) => id);
    const found = await load(...asked.map(([, id]) => id));
    return Object.fromEntries(asked.map(([name], i) => [name, found[i]]));
  };

  // ---- Elements ----

  const maker =
    (create) =>
    (name, attributes = {}, ...children) => {
      const element = create(name);
      for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
      element.append(...children);
      return element;
    };
  const make = maker((name) => document.createElement(name));
  const draw = maker((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
  const fill = (id, ...children) => byId(id).replaceChildren(...children);
  // Scroll an element's own box, not the page, until the element is in it.
  const bringInto = (box, element) => {
    const [outer, inner] = [box, element].map((each) => each.getBoundingClientRect());
    if (inner.top < outer.top + 30 || inner.bottom > outer.bottom) box.scrollTop += inner.top - outer.top - 0.4 * outer.height;
    if (inner.left < outer.left + 40 || inner.right > outer.right) box.scrollLeft += inner.left - outer.left - 0.4 * outer.width;
  };
  const reveal = (id) => byId(id).getBoundingClientRect().top < 0 && byId(id).scrollIntoView();
  const bold = (text) => make("strong", {}, text);

  // Text with all that is invisible written out, as Python's escapes do.
  const visible = (text) =>
    text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (found) => `\\u${found.codePointAt(0).toString(16).padStart(4, "0")}`);

  // The texts of tokens that follow each other. A character that is cut has its bytes in ⟨⟩; if all of them are there, the
  // first of its tokens has the character, and the others have a mark.
  const END = /⟨([\da-f]{2}(?: [\da-f]{2})*)⟩$/;
  const START = /^⟨([\da-f]{2}(?: [\da-f]{2})*)⟩/;
  const CONTINUED = "◂";
  const character = (bytes) => {
    try {
      const numbers = bytes.split(" ").map((byte) => parseInt(byte, 16));
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(new Uint8Array(numbers));
    } catch {
      return undefined;
    }
  };
  const texts = (tokens) => {
    const found = tokens.map((token) => vocabulary.text[token]);
    found.forEach((text, first) => {
      let bytes = END.exec(text)?.[1];
      for (let last = first + 1; bytes && last < found.length; last++) {
        const more = START.exec(found[last]);
        bytes = more && `${bytes} ${more[1]}`;
        const whole = bytes && character(bytes);
        if (whole !== undefined && bytes) {
          found[first] = text.replace(END, () => whole);
          found.fill(CONTINUED, first + 1, last);
          found[last] = found[last].replace(START, CONTINUED);
          return;
        }
        if (more && more[0] !== found[last]) return;
      }
    });
    return found;
  };

  const tokenElement = (text, name = "bdi") => {
    const all = visible(text);
    const shown = all.replace(CUT, "$1…");
    const element = make(name, { class: "token" }, shown || "(empty)");
    if (shown !== all) element.title = all;
    return element;
  };

  // A token by itself: the spaces at its ends, which no one could see, are marked.
  const loneToken = (token) => {
    const element = tokenElement(vocabulary.text[token]);
    const [, before, text, after] = /^( *)(.*?)( *)$/su.exec(element.textContent);
    const spaces = ({ length }) => (length ? [make("span", { class: "space" }, "·".repeat(length))] : []);
    element.replaceChildren(...spaces(before), text, ...spaces(after));
    return element;
  };

  // A number beside a bar that fills the share of its box.
  const bar = (share, text) => {
    const inside = make("span");
    inside.style.width = `${100 * Math.min(share, 1)}%`;
    return make(
      "span",
      { class: "measure" },
      make("span", { class: "bar", "aria-hidden": "true" }, inside),
      make("span", {}, text),
    );
  };

  // Columns: [title, class of the cells]; rows: lists of cells, the first one their header.
  const table = (caption, columns, rows) =>
    make(
      "div",
      { class: "scroll", role: "region", tabindex: "0", "aria-label": caption },
      make(
        "table",
        {},
        make("caption", {}, caption),
        make(
          "thead",
          {},
          make("tr", {}, ...columns.map(([title, kind]) => make("th", { scope: "col", class: kind ?? "" }, title))),
        ),
        make(
          "tbody",
          {},
          ...rows.map((cells) =>
            make(
              "tr",
              {},
              ...cells.map((cell, i) =>
                make(i ? "td" : "th", i ? { class: columns[i][1] ?? "" } : { scope: "row" }, ...[cell].flat()),
              ),
            ),
          ),
        ),
      ),
    );

  const options = (select, entries) =>
    select.replaceChildren(...entries.map(([value, text]) => make("option", { value }, text)));

  const count = (number) => number.toLocaleString("en");
  const plain = (number, digits = 3) => number.toLocaleString("en", { maximumSignificantDigits: digits });
  const percent = (share) => `${plain(100 * share)}\u00a0%`;
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const list = (names) => (names.length < 2 ? `${names}` : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

  // ---- The view and its address ----

  let index, vocabulary, names; // names: those of found/index, if chapters found something
  const state = { tab: "" };

  const link = (changes) => {
    const next = { ...state, ...changes };
    const pairs = Object.keys(TABS[next.tab]).map((key) => [key, `${next[key] ?? ""}`]);
    return `#${new URLSearchParams([["tab", next.tab], ...pairs.filter(([, value]) => value)])}`.replaceAll("%2C", ",");
  };
  const go = (changes) => (location.hash = link(changes));
  const move = (changes) => location.replace(link(changes)); // a step that Back need not repeat
  const anchor = (changes, ...children) => make("a", { href: link(changes) }, ...children);

  const setWords = (experts, mode) => experts.join(mode === "ordered" && experts.length > 1 ? " → " : ", ");
  const setLink = (layer, experts, mode) =>
    anchor({ tab: "experts", l: layer, e: experts.join(","), mode, with: "" }, setWords(experts, mode));
  const expertLink = (layer, expert) => setLink(layer, [expert], "subset");

  const whole = (text, below, what) => {
    if (/^\d+$/.test(text) && Number(text) < below) return Number(text);
    throw new Problem(`There is no ${what} “${visible(text)}”: choose one from 0 to ${count(below - 1)}.`);
  };
  const knownLayer = () => {
    const layer = state.l === "" ? index.layers[0] : Number(state.l);
    if (index.layers.includes(layer)) return layer;
    throw new Problem(`There is no layer “${visible(state.l)}”: the layers are ${list(index.layers)}.`);
  };
  const knownExperts = () => {
    const experts = state.e
      .split(/[\s,]+/)
      .filter(Boolean)
      .map((text) => whole(text, index.experts, "expert"));
    if (experts.length >= 1 && experts.length <= MOST && new Set(experts).size === experts.length) return experts;
    throw new Problem(`“${visible(state.e)}” is not one to ${MOST} different experts, such as 3, 17.`);
  };

  // Make a view; what goes wrong becomes a sentence above it.
  const attempt = async (view) => {
    turn += 1;
    const mine = turn;
    byId("browser").setAttribute("aria-busy", "true");
    fill("problem");
    try {
      await view();
    } catch (problem) {
      if (problem === STALE || mine !== turn) return;
      fill("problem", problem instanceof Problem ? problem.message : `This view failed: ${problem.message}.`);
      if (!(problem instanceof Problem)) console.error(problem);
    }
    if (mine === turn) byId("browser").setAttribute("aria-busy", "false");
  };

  const show = () => {
    const hash = new URLSearchParams(location.hash.slice(1));
    if (state.tab && location.hash && !hash.has("tab")) return; // a link within the page, such as “skip to the content”
    state.tab = hash.get("tab") in TABS ? hash.get("tab") : "experts";
    for (const [key, usual] of Object.entries(TABS[state.tab])) state[key] = hash.get(key) ?? usual;
    for (const name of Object.keys(TABS)) {
      const chosen = name === state.tab;
      byId(name).hidden = !chosen;
      byId(`tab-${name}`).setAttribute("aria-selected", chosen);
      byId(`tab-${name}`).tabIndex = chosen ? 0 : -1;
    }
    attempt({ experts: showExperts, tokens: showTokens, texts: showTexts }[state.tab]);
  };

  // ---- Experts ----

  const cells = new Map(); // grid cell by "layer,expert"
  let at; // the cell that Tab reaches

  const drawGrid = () => {
    const rows = index.layers.map((layer) => {
      const row = make("div", { role: "row" }, make("span", { role: "rowheader" }, `L${layer}`));
      for (let expert = 0; expert < index.experts; expert++) {
        const label = `Layer ${layer}, expert ${expert}`;
        const cell = make("span", {
          role: "gridcell",
          tabindex: "-1",
          "aria-label": label,
          title: label,
          "data-l": layer,
          "data-e": expert,
        });
        cells.set(`${layer},${expert}`, cell);
        row.append(cell);
      }
      return row;
    });
    const step = 2 ** Math.max(0, Math.round(Math.log2(index.experts / 8)));
    const numbers = Array.from({ length: index.experts }, (_, expert) =>
      make("span", {}, expert % step ? "" : `${expert}`),
    );
    fill("grid", make("div", { class: "numbers", "aria-hidden": "true" }, make("span"), ...numbers), ...rows);
  };

  const reach = (cell) => {
    if (at) at.tabIndex = -1;
    at = cell;
    at.tabIndex = 0;
  };

  const choose = (cell, adding) => {
    const { l, e } = cell.dataset;
    const before = adding && l === byId("layer").value ? state.e.split(",") : [];
    const others = before.filter((each) => each !== e);
    go({ with: "", l, e: (others.length && others.length < before.length ? others : [...others, e]).join(",") });
  };

  const moveInGrid = (event) => {
    const row = index.layers.indexOf(Number(at.dataset.l));
    const column = Number(at.dataset.e);
    const last = index.experts - 1;
    const [down, right] =
      {
        ArrowLeft: [row, column - 1],
        ArrowRight: [row, column + 1],
        ArrowUp: [row - 1, column],
        ArrowDown: [row + 1, column],
        Home: [event.ctrlKey ? 0 : row, 0],
        End: [event.ctrlKey ? index.layers.length - 1 : row, last],
      }[event.key] ?? [];
    if (event.key === "Enter" || event.key === " ") choose(at, event.key === " " || event.shiftKey);
    else if (down === undefined) return;
    event.preventDefault();
    const next = cells.get(`${index.layers[down]},${right}`);
    if (next) {
      reach(next);
      next.focus();
    }
  };

  // What a mode counts, in one sentence.
  const meaning = (experts, mode) => {
    const all = { 2: "both", 3: "all three" }[experts.length];
    if (mode === "subset")
      return `Counted are the tokens whose ${index.top_k} selected experts include ${all ?? "this one"}${all ? ", whatever their order" : ""}.`;
    if (!all) return "Counted are the tokens whose first choice, the expert with the highest score, is this one.";
    return `Counted are the tokens whose ${experts.length} first choices are these, ${mode === "ordered" ? "in this order" : "in any order"}.`;
  };

  const byKey = new WeakMap(); // the sets of a layer's data by mode and experts
  const keyOf = (experts, mode) => `${mode}:${mode === "ordered" ? experts : [...experts].sort((a, b) => a - b)}`;
  const keptSets = (layer) => {
    if (!byKey.has(layer))
      byKey.set(
        layer,
        new Map(layer.sets.flatMap((set) => set.m.map((mode) => [keyOf(set.e, index.modes[mode]), set]))),
      );
    return byKey.get(layer);
  };

  const together = (pairs, a, b) => pairs.n[placeOf(a, b)];

  // The tokens of a set that has no tokens and contexts of its own, if they are known.
  const countElsewhere = (experts, mode, rows, pairs) => {
    if (mode === "subset" && experts.length === 2 && pairs) return together(pairs, ...experts);
    const listed = (row) => index.modes[rows.mode[row]] === mode && `${rows.e[row]}` === `${experts}`;
    return rows.n.find((_, row) => listed(row));
  };

  // Shade the experts of a layer by the share of an expert's tokens that select them too.
  const shade = (layer, expert, pairs, tokens) => {
    const shares = Array.from({ length: index.experts }, (_, other) =>
      other === expert ? 0 : together(pairs, expert, other) / (tokens || 1),
    );
    const largest = Math.max(...shares);
    shares.forEach((share, other) =>
      cells.get(`${layer},${other}`).style.setProperty("--share", `${(85 * share) / (largest || 1)}%`),
    );
    fill(
      "shading",
      `Shade: the share of the tokens of expert ${expert} that select the other too, up to ${percent(largest)}.`,
    );
  };

  // Kept larger sets that hold one of the experts, most frequent first.
  const partners = (layer, kept, experts, mode) => {
    const number = index.modes.indexOf(mode);
    const found = kept.sets.filter(
      (set) => set.e.length > 1 && set.m.includes(number) && experts.some((expert) => set.e.includes(expert)),
    );
    const shown = found.sort((a, b) => b.n - a.n).slice(0, PARTNERS);
    const items = shown.map((set) => make("li", {}, setLink(layer, set.e, mode), ` ${count(set.n)}`));
    return items.length
      ? [
          make("p", {}, `Most frequent sets kept with ${experts.length > 1 ? "any of them" : "it"}, and their tokens:`),
          make("ul", { class: "sets" }, ...items),
        ]
      : [];
  };

  // The most frequent sets of four with an expert, or why there are none.
  const foursList = (expert, fours) => {
    const uncounted = `Sets of four are not counted: of ${index.experts} experts there are too many for memory.`;
    if (!fours) return index.top_k < 4 ? [] : [make("p", { class: "hint" }, uncounted)];
    const { e: sets, n } = fours[expert];
    if (!sets.length) return [];
    return [
      make("p", {}, "Most frequent sets of four with it, and the tokens that select all of them:"),
      make("ul", { class: "sets" }, ...sets.map((set, i) => make("li", {}, `${setWords(set, "subset")} ${count(n[i])}`))),
    ];
  };

  const datasetTable = (set, of = "") => {
    const total = sum(index.datasets.map((dataset) => dataset.tokens));
    const shares = set.d.map((number, i) => number / index.datasets[i].tokens);
    const largest = Math.max(...shares) || 1;
    const rows = index.datasets.map((dataset, i) => [
      dataset.name,
      count(set.d[i]),
      bar(shares[i] / largest, percent(shares[i])),
      set.n ? plain(shares[i] / (set.n / total)) : "–",
    ]);
    return [
      table(`Tokens by dataset${of}`, [["Dataset"], ["Tokens", "right"], ["Share of the dataset", "right"], ["Times overall", "right"]], rows),
      make(
        "p",
        { class: "hint" },
        "Times overall: the share of the dataset's tokens over the share of all tokens; 1 is as often as everywhere.",
      ),
    ];
  };

  const limits = (low, high, factor = 1) =>
    low === null || high === null ? "" : ` [${plain(factor * low)}, ${plain(factor * high)}]`;
  const share = ([estimate, low, high]) =>
    estimate === null ? "not available" : `${percent(estimate)}${limits(low, high, 100)}`;
  const qText = (q) => (q === null ? "not tested" : q < 1e-4 ? "< 0.0001" : plain(q, 2));

  // A dot with its interval on a scale from 0 to `most`, and a dashed line.
  const whisker = ([estimate, low, high], most, line) => {
    const [width, height] = [150, 18];
    const x = (value) => 4 + ((width - 8) * value) / (most || 1);
    const svg = draw("svg", { class: "dots", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    svg.append(draw("path", { class: "null", d: `M${x(line)} 0V${height}` }));
    if (low !== null) svg.append(draw("path", { class: "interval", d: `M${x(low)} ${height / 2}H${x(high)}` }));
    svg.append(draw("circle", { class: "estimate", cx: x(estimate), cy: height / 2, r: 3.5 }));
    return svg;
  };

  // The datasets of one expert with what the chapter on domains found, the largest share first.
  const domainTable = (set, domains) => {
    const mean = sum(domains.map(([estimate]) => estimate)) / domains.length;
    const most = Math.max(mean, ...domains.map(([estimate, , high]) => high ?? estimate));
    const rows = domains
      .map((domain, i) => [domain, names.datasets[i]])
      .sort(([[one]], [[other]]) => other - one)
      .map(([domain, name]) => {
        const points = 100 * (domain[0] - mean);
        return [
          name,
          count(set.d[index.datasets.findIndex((dataset) => dataset.name === name)]),
          share(domain),
          whisker(domain, most, mean),
          `${points < 0 ? "−" : "+"}${Math.abs(points).toFixed(1)}${domain[3] !== null && domain[3] <= names.rate ? "\u00a0✱" : ""}`,
          qText(domain[3]),
        ];
      });
    return [
      table(
        "Tokens by dataset",
        [
          ["Dataset"],
          ["Tokens", "right"],
          [`Share of the dataset [${plain(100 * names.confidence)} % interval]`, "right"],
          ["From 0"],
          ["Beyond its mean", "right"],
          ["q", "right"],
        ],
        rows,
      ),
      make(
        "p",
        { class: "hint" },
        `Dashed line: the mean of this expert over datasets, ${percent(mean)}; beyond it in percentage points. ✱: q ≤ ${names.rate}, by a test that deals sources out to datasets at random.`,
      ),
    ];
  };

  const removedText = (change, low, high, dataset, most, least, largest) =>
    `the loss of a token changes by ${plain(change)}${limits(low, high)} nats on average over datasets, most in ${dataset}: ${plain(most)}${limits(least, largest)}`;

  const ORDINALS = ["1st", "2nd", "3rd"];
  const facts = (found, expert) => {
    const even = index.top_k / index.experts;
    const [load, low, high] = found.load[expert];
    const more = found.types[expert]
      .map((kind, i) => [names.types[i], kind, found.types_of_all[i]])
      .filter(([, [, least], all]) => least !== null && least > all)
      .sort(([, [one], mine], [, [other], its]) => other - its - (one - mine))
      .slice(0, 3)
      .map(([name, [estimate], all]) => `${name} ${percent(estimate)} (of all tokens ${percent(all)})`);
    const entropy = found.entropy[expert];
    const rows = {
      Load: `${share(found.load[expert])} of the tokens: ${plain(load / even)}${limits(low === null ? null : low / even, high === null ? null : high / even)} times an even load`,
      "First choice": `${share(found.first[expert])} of the tokens`,
      Ranks: found.ranks[expert].map((number, rank) => `${ORDINALS[rank] ?? `${rank + 1}th`} ${count(number)}`).join(", "),
      "Router entropy": `${entropy[0] === null ? "not available" : `${plain(entropy[0])}${limits(entropy[1], entropy[2])}`}; of all tokens ${plain(found.entropy_of_all)}, 1 if all experts are equally likely`,
      ...(more.length ? { "Token types": more.join(", ") } : {}),
      ...(found.ablation ? { "If removed": removedText(...found.ablation[expert]) } : {}),
    };
    return make(
      "dl",
      { class: "facts" },
      ...Object.entries(rows).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))),
    );
  };

  // ---- Pairs: what was observed, and what loads alone explain ----

  const placeOf = (a, b) => {
    const [low, high] = a < b ? [a, b] : [b, a];
    return low * index.experts - (low * (low + 1)) / 2 + high - low - 1;
  };
  const pairOf = (found, pairs, a, b) => {
    const place = placeOf(a, b);
    const [observed, expected] = [pairs.n[place], found.expected[place]];
    const lift = expected ? observed / expected : null;
    return { observed, expected, lift, low: found.low[place], high: found.high[place], q: found.q[place] };
  };
  const liftText = ({ lift, low, high }) => (lift === null ? "not defined" : `${plain(lift)}${limits(low, high)}`);

  const companyOf = ({ lift, q }) => {
    if (q === null) return "not tested";
    if (q > names.rate) return "not shown to differ from chance";
    return `${lift > 1 ? "more" : "less"} often than chance`;
  };
  const pairFacts = (pair) => {
    const rows = {
      Together: companyOf(pair),
      Observed: `${count(pair.observed)} tokens select both`,
      Expected: `${plain(pair.expected, 4)} if the loads alone decided`,
      Lift: `${liftText(pair)}, 1 is chance`,
      q: pair.q === null ? "not tested: expected in too few tokens" : qText(pair.q),
    };
    return make(
      "dl",
      { class: "facts" },
      ...Object.entries(rows).map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))),
    );
  };

  const liftTable = (layer, expert, found, pairs) => {
    const all = Array.from({ length: index.experts }, (_, other) => other)
      .filter((other) => other !== expert)
      .map((other) => [other, pairOf(found, pairs, expert, other)])
      .filter(([, pair]) => pair.q !== null)
      .sort(([, one], [, other]) => other.lift - one.lift);
    const shown = all.length > ABOVE + BELOW ? [...all.slice(0, ABOVE), ...all.slice(-BELOW)] : all;
    if (!shown.length) return [];
    return [
      table(
        all.length > shown.length
          ? `Works with: its ${ABOVE} largest and ${BELOW} smallest lifts of ${count(all.length)}`
          : "Works with: all lifts",
        [["Expert"], ["Tokens of both", "right"], ["Expected", "right"], ["Lift [interval]", "right"], ["q", "right"]],
        shown.map(([other, pair]) => [
          anchor({ e: [expert, other].sort((a, b) => a - b).join(","), mode: "subset", with: "" }, `with ${other}`),
          count(pair.observed),
          plain(pair.expected, 4),
          liftText(pair),
          qText(pair.q),
        ]),
      ),
    ];
  };

  const nearestList = (layer, expert, found) =>
    found.nearest?.[expert].length
      ? [
          make("p", {}, "Most alike in what they put out, with the cosine once each expert's mean is removed:"),
          make(
            "ul",
            { class: "sets" },
            ...found.nearest[expert].map(([other, cosine]) =>
              make("li", {}, expertLink(layer, other), ` ${cosine === null ? "" : plain(cosine)}`),
            ),
          ),
        ]
      : [];

  // What the router receives at the tokens with the expert's highest weights, among random ones of the layer.
  const inputMap = (layer, expert, inputs) => {
    const mine = inputs.experts[expert];
    if (!mine.length) return [];
    const all = [...inputs.random.map(([, x, y]) => [x, y]), ...mine.map((one) => one.slice(-2))];
    const [across, up] = [0, 1].map((axis) => {
      const [low, high] = [Math.min, Math.max].map((end) => end(...all.map((one) => one[axis])));
      return (value) => (1000 * (value - low)) / (high - low || 1);
    });
    const at = (x, y) => `translate(${across(x).toFixed(0)} ${(1000 - up(y)).toFixed(0)})`;
    const numbers = new Map();
    for (const [dataset] of mine) numbers.set(dataset, (numbers.get(dataset) ?? 0) + 1);
    const order = [...numbers.keys()].sort((one, other) => numbers.get(other) - numbers.get(one) || one - other);
    const mark = (dataset) => {
      const place = order.indexOf(dataset);
      const [row, number] = [Math.floor(place / COLOURS), place % COLOURS];
      const path = draw("path", { d: MARKS[(row + number) % MARKS.length] });
      path.style.fill = `var(--colour-${number})`;
      return path;
    };
    const svg = draw("svg", { class: "inputs", viewBox: "-20 -20 1040 1040", "aria-hidden": "true" });
    for (const [, x, y] of inputs.random) svg.append(draw("circle", { r: 5, transform: at(x, y) }));
    for (const [dataset, place, token, weight, x, y] of [...mine].reverse()) {
      const { name } = index.datasets[dataset];
      const mine = mark(dataset);
      mine.setAttribute("transform", at(x, y));
      mine.append(draw("title", {}, `${name}: ${visible(vocabulary.text[token])}, weight ${plain(weight)}`));
      const stored = place < index.datasets[dataset].stored;
      const href = link({ tab: "texts", l: layer, d: name, at: place, t: "", p: "" });
      svg.append(stored ? draw("a", { href, tabindex: "-1" }, mine) : mine);
    }
    const items = order.map((dataset) => {
      const swatch = draw("svg", { viewBox: "-12 -12 24 24", width: 14, height: 14, "aria-hidden": "true" }, mark(dataset));
      return make("li", {}, swatch, ` ${index.datasets[dataset].name} ${count(numbers.get(dataset))}`);
    });
    return [
      make(
        "section",
        {},
        make("h3", {}, `What its router receives: the ${count(mine.length)} tokens with the highest weights`),
        make("div", { class: "map" }, svg, make("ul", { class: "sets" }, ...items)),
        make(
          "p",
          { class: "hint" },
          `Router inputs on the two directions in which ${count(inputs.random.length)} random ones of the layer, grey, differ most, which show ${percent(inputs.variance)} of their variance; a mark is a token, and a click on it leads to its text. Near marks may be far apart in the directions that are not shown.`,
        ),
      ),
    ];
  };

  const KINDS = {
    input: "Most frequent tokens",
    next: "Most frequent next tokens",
    predicted: "Most frequent predictions of the next token",
  };
  // `of` says whose tokens they are, where several sets stand beside each other.
  const topTable = (kind, top, of = "") => {
    const largest = Math.max(...top.map(([, , share]) => share));
    const rows = top.map(([token, number, share]) => [
      anchor({ tab: "tokens", q: "", v: vocabulary.id[token], where: "" }, loneToken(token)),
      count(number),
      bar(share / largest, percent(share)),
    ]);
    return table(`${KINDS[kind]}${of}`, [["Token"], ["Count", "right"], ["Share", "right"]], rows);
  };

  const ownTable = (own, of = "") =>
    table(
      `Most specific tokens${of}, of those with at least ${index.often} occurrences`,
      [["Token"], ["Count", "right"], ["Share of its occurrences", "right"]],
      own.map(([token, number, share]) => [
        anchor({ tab: "tokens", q: "", v: vocabulary.id[token], where: "" }, loneToken(token)),
        count(number),
        bar(share, percent(share)),
      ]),
    );

  // Index of the document of a position in a store, and where it ends.
  const documentAt = (store, position) => {
    const next = store.start.findIndex((start) => start > position);
    return next < 0 ? [store.start.length - 1, store.token.length] : [next - 1, store.start[next]];
  };
  const heated = (element, step) => {
    if (step > 0) {
      element.classList.add("heat");
      element.style.setProperty("--heat", step / index.contexts.heats);
    }
    return element;
  };
  const run = (words, steps) => make("bdi", {}, ...words.map((text, i) => heated(tokenElement(text), steps[i])));

  // `heat`: for each token around the middle one the digit of its heat, or nothing.
  const contextLine = (layer, stores, [dataset, position, weight], heat) => {
    const store = stores[dataset];
    const name = index.datasets[dataset].name;
    const [place, end] = documentAt(store, position);
    const id = store.documents[place];
    const offset = position - store.start[place];
    const text = index.texts.findIndex((each) => each.dataset === name && each.document === id && offset < each.tokens);
    const view = text < 0 ? { d: name, at: position, t: "", p: "" } : { d: "", at: "", t: text, p: offset };
    const { around } = index.contexts;
    const first = Math.max(store.start[place], position - around);
    const words = texts(store.token.slice(first, Math.min(end, position + 1 + around)));
    const steps = words.map((_, i) => Number(heat[around - (position - first) + i] ?? 0));
    const middle = position - first;
    return make(
      "li",
      {},
      make("span", { class: "before" }, run(words.slice(0, middle), steps)),
      make(
        "span",
        { class: "after" },
        heated(tokenElement(words[middle], "mark"), steps[middle]),
        run(words.slice(middle + 1), steps.slice(middle + 1)),
      ),
      make("span", { class: "weight" }, weight === undefined ? "" : plain(weight)),
      make("a", { href: link({ tab: "texts", l: layer, ...view }) }, `${name}, ${visible(`${id}`)}`),
    );
  };

  const CONTEXTS = {
    high: ["Highest weight", (several) => `Extremes, not typical uses: the tokens with the largest ${several ? "sum of routing weights" : "routing weight"}, at most ${index.contexts.per_token} with the same token.`],
    mid: ["Middle weight", () => `The tokens whose weights are nearest to the median, at most ${index.contexts.per_token} with the same token.`],
    rand: ["Random", () => "Drawn at random from the tokens that are not among the highest."],
  };
  const chosenContexts = () => {
    const known = Object.hasOwn(CONTEXTS, state.show || "high");
    if (!known) throw new Problem(`There are no contexts “${visible(state.show)}”: choose ${list(Object.keys(CONTEXTS))}.`);
    const dataset = index.datasets.findIndex(({ name }) => name === state.in);
    if (state.in && dataset < 0) throw new Problem(`There is no dataset “${visible(state.in)}”.`);
    return [state.show || "high", dataset];
  };

  // The chosen contexts of a set, at most so many, with what they are.
  const drawContexts = async (layer, set, most, of = "") => {
    const [kind, dataset] = chosenContexts();
    const size = 2 * index.contexts.around + 1;
    const before = { high: 0, mid: set.high.length, rand: set.high.length + set.mid.length }[kind];
    const lines = set[kind]
      .map((each, i) => [each, set.heat?.slice(size * (before + i), size * (before + i + 1)) ?? ""])
      .filter(([[its]]) => dataset < 0 || its === dataset)
      .slice(0, most);
    const needed = [...new Set(lines.map(([[its]]) => its))];
    const loaded = await load(...needed.map((its) => `store/${index.datasets[its].name}`));
    const stores = Object.fromEntries(needed.map((its, i) => [its, loaded[i]]));
    const [name, about] = CONTEXTS[kind];
    const title = `${name}${of} (${count(lines.length)} of ${count(set[kind].length)})`;
    const where = dataset < 0 ? "" : ` Of ${index.datasets[dataset].name} only.`;
    const shade = set.heat
      ? ` Shade: the weight on each token that has ${set.e.length > 1 ? "all of them" : "the expert"} selected, darkest ${plain(set.peak)}.`
      : "";
    return make(
      "section",
      {},
      make("h3", {}, title),
      make("p", { class: "hint" }, `${about(set.e.length > 1)}${where} The number is the weight; the link leads to the text.${shade}`),
      ...(lines.length
        ? [
            make(
              "ol",
              { class: "contexts", "aria-label": title },
              ...lines.map(([each, heat]) => contextLine(layer, stores, each, heat)),
            ),
          ]
        : [make("p", {}, "None is kept.")]),
    );
  };

  const drawSpecific = (layer, { rows, specific }, mode) => {
    const dataset = byId("specific-dataset").value;
    const found = specific[index.modes.indexOf(mode)];
    const number = dataset === "" ? sum(found) : found[dataset];
    const wanted = rows.mode
      .map((_, i) => i)
      .filter((i) => index.modes[rows.mode[i]] === mode && (dataset === "" || rows.dataset[i] === Number(dataset)));
    const lines = wanted
      .sort((a, b) => rows.score[b] - rows.score[a])
      .slice(0, SPECIFIC)
      .map((i) => [
        setLink(layer, rows.e[i], mode),
        index.datasets[rows.dataset[i]].name,
        `${count(rows.c[i])} of ${count(rows.n[i])}`,
        bar(rows.score[i], `${plain(rows.score[i])} [${plain(rows.low[i])}, ${plain(rows.high[i])}]`),
        rows.q[i] < 1e-4 ? "< 0.0001" : plain(rows.q[i], 2),
      ]);
    const where = dataset === "" ? "" : ` of ${index.datasets[dataset].name}`;
    fill(
      "specific",
      lines.length
        ? table(
            `The ${count(lines.length)} with the highest score of ${count(number)} sets${where}; layer ${layer}, mode ${mode}`,
            [
              ["Experts"],
              ["Dataset"],
              ["Tokens in it, of all", "right"],
              ["Score [95 % interval]", "right long"],
              ["q", "right"],
            ],
            lines,
          )
        : make("p", {}, `No set${where} stands out in layer ${layer} in the mode ${mode}.`),
    );
  };

  const knownOther = () => {
    if (state.with === "") return undefined;
    const [, layer, expert] = /^(\d+),(\d+)$/.exec(state.with) ?? [];
    if (!index.layers.includes(Number(layer)))
      throw new Problem(`“${visible(state.with)}” is not a layer and an expert to compare with, such as ${index.layers.at(-1)},3.`);
    return [Number(layer), whole(expert, index.experts, "expert")];
  };

  // The experts before and after, through all layers, and the one that is compared.
  const drawSteps = (layer, expert, other) => {
    const place = index.layers.indexOf(layer) * index.experts + expert;
    for (const [id, step, words] of [
      ["previous", place - 1, "← Previous"],
      ["next", place + 1, "Next →"],
    ]) {
      const its = index.layers[Math.floor(step / index.experts)];
      byId(id).hidden = its === undefined;
      if (its === undefined) continue;
      const number = step % index.experts;
      byId(id).href = link({ l: its, e: number, with: "" });
      byId(id).textContent = words;
      byId(id).setAttribute("aria-label", `${words}: layer ${its}, expert ${number}`);
    }
    byId("with-layer").value = other?.[0] ?? byId("with-layer").value;
    if (document.activeElement !== byId("with-expert")) byId("with-expert").value = other?.[1] ?? "";
    byId("alone").hidden = !other;
    byId("alone").href = link({ with: "" });
  };

  // A narrow column about one set, to stand beside others; `rest` says why a set has nothing but its count.
  const drawColumn = async ({ name, title = [name], layer, set, found }, rest) => {
    const of = `, ${name}`;
    if (!set) return make("section", {}, make("h3", {}, ...title), make("p", {}, rest));
    return make(
      "section",
      {},
      make("h3", {}, ...title),
      make("p", {}, bold(count(set.n)), " tokens"),
      ...(found ? [facts(found, set.e[0])] : []),
      ...(set.top.input.length ? [topTable("input", set.top.input.slice(0, BESIDE), of)] : []),
      ...(set.own.length ? [ownTable(set.own.slice(0, BESIDE), of)] : []),
      datasetTable(set, of)[0],
      await drawContexts(layer, set, BESIDE, of),
    );
  };

  let before; // the set that was shown before

  const showExperts = async () => {
    const layer = knownLayer();
    const mode = state.mode;
    if (!index.modes.includes(mode))
      throw new Problem(`There is no mode “${visible(mode)}”: the modes are ${list(index.modes)}.`);
    const experts = mode === "ordered" ? knownExperts() : knownExperts().sort((a, b) => a - b);
    const other = experts.length === 1 ? knownOther() : undefined;
    const [show] = chosenContexts();
    byId("layer").value = layer;
    byId("chosen").value = experts.join(", ");
    byId("context-dataset").value = state.in;
    for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === mode;
    for (const radio of document.getElementsByName("show")) radio.checked = radio.value === show;
    for (const [key, cell] of cells) {
      const chosen = key.startsWith(`${layer},`) && experts.includes(Number(cell.dataset.e));
      cell.setAttribute("aria-selected", chosen || key === `${other}`);
      cell.style.removeProperty("--share");
    }
    if (!byId("grid").contains(document.activeElement)) reach(cells.get(`${layer},${experts[0]}`));
    bringInto(byId("grid").parentElement, cells.get(`${layer},${experts[0]}`));
    drawSteps(layer, experts[0], other);

    const { kept, specific, pairs, found, inputs, fours } = await gather({
      kept: `experts/${layer}`,
      specific: `sets/${layer}`,
      pairs: index.top_k > 1 && `pairs/${layer}`,
      found: names && `found/${layer}`,
      inputs: index.inputs && mode === "subset" && experts.length === 1 && `inputs/${layer}`,
      fours: index.fours && mode === "subset" && experts.length === 1 && `fours/${layer}`,
    });
    const setOf = (each, its = mode) => keptSets(kept).get(keyOf(each, its));
    if (pairs) shade(layer, experts[0], pairs, setOf([experts[0]], "subset").n);

    const set = setOf(experts);
    const name = `Layer ${layer}, expert${experts.length > 1 ? "s" : ""} ${setWords(experts, mode)}`;
    const beside = other ? ` beside layer ${other[0]}, expert ${other[1]}` : "";
    const total = sum(index.datasets.map((dataset) => dataset.tokens));
    const number = set?.n ?? countElsewhere(experts, mode, specific.rows, pairs);
    const known =
      number === undefined
        ? ["Its count is not kept."]
        : [bold(count(number)), ` of ${count(total)} tokens (${percent(number / total)}).`];
    const isPair = mode === "subset" && experts.length === 2;
    fill(
      "set",
      make("h2", {}, name + beside),
      make("p", {}, ...known, ` ${meaning(experts, mode)}`),
      ...(isPair && found ? [pairFacts(pairOf(found, pairs, ...experts))] : []),
    );
    const key = `${layer},${mode}:${experts}`;
    if (key !== before) reveal("set");
    before = key;
    const more = partners(layer, kept, experts, mode);
    fill(
      "specific-about",
      `Sets of one to three experts with at least ${count(index.minimum_occurrences)} tokens and q ≤ ${index.false_discovery_rate}. Score: the share of the set's tokens that would come from the dataset if all datasets were equally large. q: the false discovery rate at which the set would still be listed.`,
    );
    drawSpecific(layer, specific, mode);
    const rest = `Tokens and contexts are kept for single experts and, in the mode ${mode}, for the ${count(index.pairs)} most frequent pairs and the ${count(index.triples)} most frequent triples of each layer; this set is not among them.`;
    byId("choose-contexts").hidden = !set && !isPair;
    byId("set-counts")[isPair || other ? "before" : "after"](byId("choose-contexts"));
    fill("set-contexts");
    if (isPair || other) {
      const [first, second] = isPair ? experts.map((expert) => [layer, expert]) : [[layer, experts[0]], other];
      const columns = [
        await column(...first),
        ...(isPair ? [{ name: "both", title: ["Both"], layer, set }] : []),
        await column(...second),
      ];
      const drawn = await Promise.all(columns.map((each) => drawColumn(each, rest)));
      fill("set-counts", ...(isPair ? more : []), make("div", { class: "columns" }, ...drawn));
      return;
    }
    if (!set) {
      fill("set-counts", make("p", {}, rest), ...more);
      return;
    }
    const single = mode === "subset" && experts.length === 1 && found;
    const shown = await drawContexts(layer, set);
    fill(
      "set-counts",
      ...(single ? [facts(found, experts[0])] : []),
      make(
        "div",
        { class: "tops" },
        ...index.kinds.filter((kind) => set.top[kind]?.length).map((kind) => topTable(kind, set.top[kind])),
        ...(set.own.length ? [ownTable(set.own)] : []),
      ),
      ...(single ? domainTable(set, found.domains[experts[0]]) : datasetTable(set)),
      ...(single && pairs ? liftTable(layer, experts[0], found, pairs) : []),
      ...(single ? nearestList(layer, experts[0], found) : []),
      ...(inputs ? inputMap(layer, experts[0], inputs) : []),
      ...more,
      ...(mode === "subset" && experts.length === 1 ? foursList(experts[0], fours) : []),
    );
    fill("set-contexts", shown);
  };

  const column = async (layer, expert) => {
    const { kept, found } = await gather({ kept: `experts/${layer}`, found: names && `found/${layer}` });
    const name = `layer ${layer}, expert ${expert}`;
    const title = [`Layer ${layer}, expert `, expertLink(layer, expert)];
    return { name, title, layer, set: keptSets(kept).get(keyOf([expert], "subset")), found };
  };

  // ---- Tokens ----

  const rowOf = new WeakMap(); // row by token of a content that lists tokens
  const typical = (listed, token) => {
    if (!rowOf.has(listed)) rowOf.set(listed, new Map(listed.token.map((each, row) => [each, row])));
    return rowOf.get(listed).get(token);
  };

  const found = (query, how) => {
    vocabulary.lower ??= vocabulary.text.map((text) => text.toLowerCase());
    const wanted = query.toLowerCase();
    const same = (i) => vocabulary.text[i] === query;
    const places = vocabulary.text
      .map((_, i) => i)
      .filter(how === "whole" ? same : (i) => vocabulary.lower[i].includes(wanted));
    return places.sort((a, b) => same(b) - same(a) || vocabulary.count[b] - vocabulary.count[a] || a - b);
  };

  const shares = (layer, experts, values) =>
    values.flatMap((share, i) =>
      share > 0 ? [make("span", { class: "choice" }, expertLink(layer, experts[i]), ` ${percent(share)}`)] : [],
    );
  const choices = (layer, listed, token) => {
    const row = typical(listed, token);
    return row === undefined
      ? ["–", "–"]
      : [
          shares(layer, listed.expert[row], listed.share[row]),
          shares(layer, listed.selected_expert[row], listed.selected[row]),
        ];
  };

  const drawToken = (token, counts, layers) => {
    const text = visible(vocabulary.text[token]);
    const row = typical(counts, token);
    const parts = [
      make("h2", {}, "Token ", loneToken(token)),
      make("p", {}, `Id ${vocabulary.id[token]}, `, bold(count(vocabulary.count[token])), " occurrences."),
    ];
    if (CUT.test(text))
      parts.push(
        make(
          "details",
          {},
          make("summary", {}, `All ${count(text.length)} characters`),
          make("p", {}, make("bdi", {}, text)),
        ),
      );
    if (row === undefined)
      parts.push(
        make(
          "p",
          {},
          `Datasets and experts are kept for the ${count(index.typical_tokens)} most frequent tokens; this one is not among them.`,
        ),
      );
    else {
      const rates = counts.d[row].map((number, i) => number / index.datasets[i].tokens);
      parts.push(
        make(
          "div",
          { class: "tops" },
          table(
            "Where it occurs",
            [["Dataset"], ["Count", "right"], ["Per 1,000 tokens", "right"]],
            index.datasets.map((dataset, i) => [
              dataset.name,
              count(counts.d[row][i]),
              bar(rates[i] / Math.max(...rates), plain(1000 * rates[i])),
            ]),
          ),
          table(
            "Its experts: share of its occurrences",
            [["Layer"], ["First choice"], ["Selected"]],
            index.layers.map((layer, i) => [`${layer}`, ...choices(layer, layers[i], token)]),
          ),
        ),
      );
    }
    fill("token", ...parts);
    reveal("token");
  };

  // Where a token occurs in the stored part of a dataset, evenly spaced.
  const drawOccurrences = async (token, counts) => {
    const row = typical(counts, token);
    const known = index.datasets.map(({ name }, i) => [name, row === undefined ? undefined : counts.d[row][i]]);
    const there = known.filter(([, number]) => number !== 0);
    const most = [...there].sort(([, one], [, other]) => (other ?? 0) - (one ?? 0))[0][0];
    const name = state.where || most;
    const dataset = index.datasets.findIndex((each) => each.name === name);
    if (dataset < 0) throw new Problem(`There is no dataset “${visible(name)}”.`);
    options(
      byId("where"),
      known.map(([each, number]) => [each, number === undefined ? each : `${each} (${count(number)})`]),
    );
    byId("where").value = name;
    const [store] = await load(`store/${name}`);
    const places = store.token.flatMap((each, place) => (each === token ? [place] : []));
    const step = Math.max(1, places.length / OCCURRENCES);
    const shown = Array.from({ length: Math.min(OCCURRENCES, places.length) }, (_, i) => places[Math.floor(i * step)]);
    const lines = shown.map((place) => contextLine(knownLayer(), { [dataset]: store }, [dataset, place], ""));
    byId("choose-occurrences").hidden = false;
    fill(
      "occurrences",
      make(
        "p",
        { class: "hint" },
        `${count(shown.length)} of ${count(places.length)} occurrences in the first ${count(store.token.length)} tokens of ${name}, evenly spaced; the link leads to the text.`,
      ),
      ...(lines.length ? [make("ol", { class: "contexts", "aria-label": "In context" }, ...lines)] : []),
    );
  };

  const showTokens = async () => {
    const layer = knownLayer();
    const query = state.q;
    if (document.activeElement !== byId("query")) byId("query").value = query;
    byId("how").value = state.how === "whole" ? "whole" : "part";
    byId("token-layer").value = layer;
    const [counts, listed] = await load("tokens/counts", `tokens/${layer}`);
    const places = found(query, state.how);
    fill(
      "matches",
      `${count(places.length)} ${query ? `tokens ${state.how === "whole" ? "are" : "contain"} “${visible(query)}”` : "tokens"}${places.length > ROWS ? `; the ${ROWS} most frequent follow` : ""}.`,
    );
    const rows = places.slice(0, ROWS).map((token) => {
      const row = typical(counts, token);
      const most =
        row === undefined
          ? []
          : counts.d[row]
              .map((number, i) => [number, i])
              .sort((a, b) => b[0] - a[0])
              .filter(([number]) => number)
              .slice(0, 3);
      return [
        anchor({ v: vocabulary.id[token], where: "" }, loneToken(token)),
        count(vocabulary.count[token]),
        row === undefined ? "–" : most.map(([number, i]) => `${index.datasets[i].name} ${count(number)}`).join(", "),
        ...choices(layer, listed, token),
      ];
    });
    fill(
      "results",
      ...(rows.length
        ? [
            table(
              `Tokens and their experts in layer ${layer}`,
              [["Token"], ["Count", "right"], ["Datasets"], ["First choice"], ["Selected"]],
              rows,
            ),
          ]
        : []),
    );
    byId("choose-occurrences").hidden = true;
    fill("occurrences");
    if (state.v === "") return fill("token");
    const token = vocabulary.id.indexOf(Number(state.v));
    if (token < 0) throw new Problem(`The token id “${visible(state.v)}” does not occur in this study.`);
    drawToken(token, counts, await load(...index.layers.map((each) => `tokens/${each}`)));
    await drawOccurrences(token, counts);
  };

  // ---- Texts ----

  // A token of a running text: a line break follows each one that is written out.
  const readable = (text, name = "span") => {
    const element = tokenElement(text, name);
    element.textContent = element.textContent.replace(/(?<=(?<!\\)(?:\\\\)*\\n)/g, "\n");
    return element;
  };

  let reading; // the text that is shown, and its elements
  let everywhere; // the text of which all layers are shown
  let tokens = [];

  const drawReading = (content) => {
    reading = content;
    tokens = texts(content.token).map((text, i) => {
      const element = readable(text);
      element.setAttribute("role", "option");
      element.dataset.p = i;
      return element;
    });
    fill(
      "reading",
      make(
        "div",
        { class: "text", role: "listbox", "aria-label": "Tokens of the text", "aria-orientation": "horizontal" },
        ...tokens,
      ),
    );
  };

  // Tokens down, layers across: first choices, coloured as those of one layer are.
  const drawAllLayers = (content, bytes) => {
    reading = undefined;
    const words = texts(content.token);
    const rows = words.map((text, p) => {
      const head = make("th", { scope: "row", role: "rowheader" }, `${p + 1} `, tokenElement(text));
      return make("tr", { role: "row" }, head);
    });
    index.layers.forEach((layer, row) => {
      const routing = routingOf(bytes, words.length, row);
      const first = words.map((_, i) => routing.experts(i)[0]);
      const rank = rankOf(first);
      first.forEach((expert, p) => {
        const cell = make("td", { role: "gridcell", tabindex: "-1", "data-p": p, "data-l": layer }, `${expert}`);
        if (rank.has(expert)) cell.classList.add(`colour-${rank.get(expert)}`);
        rows[p].append(cell);
      });
    });
    tokens = words;
    const heads = index.layers.map((layer) => make("th", { scope: "col", role: "columnheader" }, `L${layer}`));
    fill(
      "reading",
      make(
        "div",
        { class: "scroll all-layers" },
        make(
          "table",
          { role: "grid", "aria-label": "First choices of every token in all layers" },
          make(
            "thead",
            { role: "rowgroup" },
            make("tr", { role: "row" }, make("th", { scope: "col", role: "columnheader" }, "Token"), ...heads),
          ),
          make("tbody", { role: "rowgroup" }, ...rows),
        ),
      ),
    );
    everywhere = content;
  };

  const markCell = (layer, position) => {
    const holds = byId("reading").contains(document.activeElement);
    for (const cell of byId("reading").querySelectorAll("[tabindex='0'][data-p]")) {
      cell.tabIndex = -1;
      cell.setAttribute("aria-selected", "false");
    }
    const cell = byId("reading").querySelector(`[data-p="${position}"][data-l="${layer}"]`);
    cell.tabIndex = 0;
    cell.setAttribute("aria-selected", "true");
    if (holds) cell.focus();
  };

  // Selected experts and weights of every token of a text in one layer.
  const routingOf = (bytes, size, layer) => {
    const { top_k: k, id_bytes: width } = index;
    const cells = index.layers.length * size * k;
    const view = new DataView(bytes.buffer);
    const read = (cell) => (width === 2 ? view.getUint16(2 * cell, true) : bytes[cell]);
    const ranks = [...Array(k).keys()];
    const cell = (token, rank) => (layer * size + token) * k + rank;
    return {
      experts: (token) => ranks.map((rank) => read(cell(token, rank))),
      weights: (token) => ranks.map((rank) => (bytes[cells * width + cell(token, rank)] / 255) * index.weight_scale),
    };
  };

  // Numbers in one byte are known to half a step: 1 / 255 of the scale, of a probability 1 / 255 of its root.
  const within = (value, error) => {
    const digits = Math.max(0, -Math.floor(Math.log10(error)));
    const unit = 10 ** -digits;
    const most = unit * Math.ceil(error / unit + 0.5); // the number is rounded once more
    return `${value.toFixed(digits)} ± ${most.toFixed(digits)}`;
  };
  const weightText = (value) => within(value, index.weight_scale / 510);
  const probabilityText = (value) => within(value, Math.sqrt(value) / 255 + 1 / 510 ** 2);

  // The most frequent of some first choices with their numbers, and the place of each.
  const mostFrequent = (first) => {
    const frequency = new Map();
    for (const expert of first) frequency.set(expert, (frequency.get(expert) ?? 0) + 1);
    return [...frequency].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, COLOURS);
  };
  const rankOf = (first) => new Map(mostFrequent(first).map(([expert], i) => [expert, i]));

  const colour = (layer, routing) => {
    const first = tokens.map((_, i) => routing.experts(i)[0]);
    const [most, rank] = [mostFrequent(first), rankOf(first)];
    tokens.forEach((token, i) => {
      for (let number = 0; number < COLOURS; number++)
        token.classList.toggle(`colour-${number}`, rank.get(first[i]) === number);
      token.setAttribute("aria-label", `${token.textContent.trim() || "space"}, expert ${first[i]}`);
    });
    const items = most.map(([expert, number], i) => {
      const name = anchor({ tab: "experts", l: layer, e: expert, mode: "ordered" }, `Expert ${expert}`);
      name.className = `colour-${i}`;
      return make("li", {}, name, ` ${count(number)}`);
    });
    fill("legend", ...items);
  };

  // All probabilities of one token as bars; the selected experts are marked below the axis.
  const plot = (probabilities, selected) => {
    const [width, height, left] = [360, 130, 34];
    const step = (width - left) / probabilities.length;
    const largest = Math.max(...probabilities);
    const y = (value) => height * (1 - value / largest);
    const svg = draw("svg", { class: "routing", viewBox: `0 -8 ${width} ${height + 40}`, role: "img" });
    probabilities.forEach((value, expert) => {
      const x = left + step * expert;
      const chosen = selected.includes(expert);
      svg.append(
        draw(
          "rect",
          {
            class: chosen ? "chosen" : "other",
            x: x + 0.1 * step,
            y: y(value),
            width: 0.8 * step,
            height: height - y(value),
          },
          draw("title", {}, `Expert ${expert}: ${probabilityText(value)}`),
        ),
      );
      if (chosen) svg.append(draw("path", { class: "mark", d: `M${x + step / 2} ${height + 3}l4 7h-8z` }));
    });
    const even = y(1 / probabilities.length);
    svg.append(
      draw("path", { class: "axis", d: `M${left} 0V${height}H${width}` }),
      draw("path", { class: "null", d: `M${left} ${even}H${width}` }),
      draw("text", { x: left - 4, y: 8, "text-anchor": "end" }, plain(largest, 2)),
      draw("text", { x: left - 4, y: height, "text-anchor": "end" }, "0"),
      draw("text", { x: left, y: height + 26 }, "expert 0"),
      draw("text", { x: width, y: height + 26, "text-anchor": "end" }, `${probabilities.length - 1}`),
    );
    svg.setAttribute(
      "aria-label",
      `Routing plot of ${probabilities.length} experts. Selected: ${list(
        selected.map((expert) => `expert ${expert} with ${plain(probabilities[expert], 2)}`),
      )}; an even share would be ${plain(1 / probabilities.length, 2)}.`,
    );
    return svg;
  };

  const drawRouting = (row, position, routing, plots, content) => {
    const layer = index.layers[row];
    const experts = routing.experts(position);
    const weights = routing.weights(position);
    const size = index.experts;
    const start = (row * tokens.length + position) * size;
    const apart = plots && !index.weight_is_probability; // otherwise the weight says it
    const probabilities = plots && [...plots.subarray(start, start + size)].map((byte) => (byte / 255) ** 2);
    const button = (step, words) => {
      const element = make("button", { type: "button", id: `layer-${words}` }, `${words} layer`);
      element.disabled = index.layers[row + step] === undefined;
      element.addEventListener("click", () => move({ l: index.layers[row + step] }));
      return element;
    };
    const focused = document.activeElement?.id;
    fill(
      "routing",
      make("h2", {}, loneToken(content.token[position])),
      make("p", {}, `Token ${count(position + 1)} of ${count(tokens.length)}, layer ${layer}`),
      make("p", { class: "steps" }, button(-1, "Previous"), " ", button(1, "Next")),
      ...(plots
        ? [
            plot(probabilities, experts),
            make(
              "p",
              { class: "hint" },
              `Probability of every expert${index.probability === "softmax" ? "" : ` (${index.probability})`}; triangles mark the selected, the dashed line an even share.`,
            ),
          ]
        : [
            make(
              "p",
              { class: "hint" },
              "The probabilities of all experts are not kept for this text; the list says for which they are.",
            ),
          ]),
      table(
        `Selected experts, layer ${layer}`,
        [
          ["Expert"],
          [`Weight${index.weight_is_probability ? " = probability" : ""}`, "right long"],
          ...(apart ? [["Probability", "right"]] : []),
        ],
        experts.map((expert, rank) => [
          expertLink(layer, expert),
          bar(weights[rank] / index.weight_scale, weightText(weights[rank])),
          ...(apart ? [probabilityText(probabilities[expert])] : []),
        ]),
      ),
      make("p", { class: "hint" }, "To save space the numbers are rounded; ± is the most by which they are off."),
    );
    if (focused?.startsWith("layer-")) byId(focused).focus();
  };

  const showDocument = async () => {
    const [store] = await load(`store/${state.d}`);
    const position = whole(state.at, store.token.length, "position");
    const [place, end] = documentAt(store, position);
    reading = everywhere = undefined;
    fill("legend");
    fill("routing");
    fill(
      "text-about",
      bold(`${state.d}, ${visible(`${store.documents[place]}`)}. `),
      "The routing of every token is kept for the texts in the list only.",
    );
    const start = store.start[place];
    const words = texts(store.token.slice(start, end)).map((text, i) =>
      readable(text, start + i === position ? "mark" : "span"),
    );
    fill("reading", make("p", { class: "text" }, ...words));
    words[position - start].scrollIntoView({ block: "center" });
  };

  const showTexts = async () => {
    const layer = knownLayer();
    const row = index.layers.indexOf(layer);
    byId("slider").value = row;
    byId("slider-layer").textContent = layer;
    byId("text").value = state.d === "" ? state.t : "";
    byId("all").checked = state.all !== "";
    byId("all").disabled = state.d !== "";
    if (state.d !== "") {
      if (!index.datasets.some((dataset) => dataset.name === state.d))
        throw new Problem(`There is no dataset “${visible(state.d)}”.`);
      return showDocument();
    }
    if (!index.texts.length) throw new Problem("This study keeps no texts to read.");
    const text = whole(state.t, index.texts.length, "text");
    const about = index.texts[text];
    const [content, bytes, plots] = await load(
      `texts/${text}`,
      `texts/${text}-layers`,
      ...(about.plots ? [`texts/${text}-plots`] : []),
    );
    const position = whole(state.p, content.token.length, "token");
    if (state.all !== "") {
      if (everywhere !== content) {
        drawAllLayers(content, bytes);
        reveal("texts");
      }
      fill(
        "text-about",
        bold(`${about.dataset}, ${visible(`${about.document}`)}. `),
        "The first choice of every token in every layer; in each layer the six most frequent have a colour of their own, which says nothing across layers. Click a cell, or use the arrow keys.",
      );
      fill("legend");
      markCell(layer, position);
      drawRouting(row, position, routingOf(bytes, tokens.length, row), plots, content);
      return;
    }
    everywhere = undefined;
    if (reading !== content) {
      drawReading(content);
      reveal("texts");
    }
    const routing = routingOf(bytes, tokens.length, row);
    fill(
      "text-about",
      bold(`${about.dataset}, ${visible(`${about.document}`)}. `),
      "Coloured are the six experts that are most often the first choice in this layer, with their numbers of tokens. Click a token, or use the arrow keys: left and right for tokens, up and down for layers.",
    );
    colour(layer, routing);
    tokens.forEach((token, i) => {
      token.setAttribute("aria-selected", i === position);
      token.tabIndex = i === position ? 0 : -1;
    });
    if (byId("reading").contains(document.activeElement)) tokens[position].focus();
    drawRouting(row, position, routing, plots, content);
  };

  const moveInText = (event) => {
    if (!event.target.dataset.p) return;
    const position = Number(state.p);
    const row = index.layers.indexOf(knownLayer());
    const last = tokens.length - 1;
    const [earlier, later] = [{ p: Math.max(0, position - 1) }, { p: Math.min(last, position + 1) }];
    const [above, below] = [{ l: index.layers[row - 1] ?? state.l }, { l: index.layers[row + 1] ?? state.l }];
    const [left, right, up, down] = state.all ? [above, below, earlier, later] : [earlier, later, above, below];
    const next = {
      ArrowLeft: left,
      ArrowRight: right,
      Home: { p: 0 },
      End: { p: last },
      ArrowUp: up,
      ArrowDown: down,
    }[event.key];
    if (!next) return;
    event.preventDefault();
    move(next);
  };

  // ---- Start ----

  const listen = () => {
    document
      .querySelectorAll("#browser form")
      .forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
    const names = Object.keys(TABS);
    names.forEach((name, i) => {
      byId(`tab-${name}`).addEventListener("click", () => go({ tab: name }));
      byId(`tab-${name}`).addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        const next = names.at((i + step) % names.length);
        byId(`tab-${next}`).focus();
        go({ tab: next });
      });
    });
    byId("layer").addEventListener("change", (event) => go({ l: event.target.value, with: "" }));
    byId("chosen").addEventListener("change", (event) =>
      go({
        with: "",
        e: event.target.value
          .split(/[\s,]+/)
          .filter(Boolean)
          .join(","),
      }),
    );
    for (const radio of document.getElementsByName("mode"))
      radio.addEventListener("change", () => go({ mode: radio.value }));
    for (const radio of document.getElementsByName("show"))
      radio.addEventListener("change", () => move({ show: radio.value }));
    byId("context-dataset").addEventListener("change", (event) => move({ in: event.target.value }));
    const compare = () => {
      const [layer, expert] = [byId("with-layer").value, byId("with-expert").value.trim()];
      const same = layer === byId("layer").value;
      if (expert === "") return;
      go(same ? { e: `${state.e.split(",")[0]},${expert}`, with: "", mode: "subset" } : { with: `${layer},${expert}` });
    };
    for (const id of ["with-layer", "with-expert"]) byId(id).addEventListener("change", compare);
    byId("grid").addEventListener("keydown", moveInGrid);
    byId("grid").addEventListener("click", (event) => {
      if (!event.target.dataset.e) return;
      reach(event.target);
      choose(event.target, event.shiftKey || event.ctrlKey || event.metaKey);
    });
    byId("specific-dataset").addEventListener("change", async () => {
      const [sets] = await load(`sets/${knownLayer()}`);
      drawSpecific(knownLayer(), sets, state.mode);
    });
    byId("query").addEventListener("input", (event) => move({ q: event.target.value, v: "" }));
    byId("how").addEventListener("change", (event) => move({ how: event.target.value, v: "" }));
    byId("where").addEventListener("change", (event) => move({ where: event.target.value }));
    byId("token-layer").addEventListener("change", (event) => go({ l: event.target.value }));
    byId("text").addEventListener("change", (event) => go({ t: event.target.value, p: 0, d: "", at: "" }));
    byId("all").addEventListener("change", (event) => go({ all: event.target.checked ? "1" : "" }));
    byId("slider").addEventListener("input", (event) => move({ l: index.layers[event.target.value] }));
    byId("reading").addEventListener("keydown", moveInText);
    byId("reading").addEventListener("click", (event) => {
      const token = event.target.closest("[data-p]");
      if (token) {
        token.focus();
        move({ p: token.dataset.p, ...(token.dataset.l ? { l: token.dataset.l } : {}) });
      }
    });
    window.addEventListener("hashchange", show);
  };

  const start = async () => {
    ({ index, vocabulary, names } = await gather({
      index: "index",
      vocabulary: "vocabulary",
      names: foundBuild && "found/index",
    }));
    for (const id of ["layer", "with-layer", "token-layer"])
      options(
        byId(id),
        index.layers.map((layer) => [layer, layer]),
      );
    byId("slider").max = index.layers.length - 1;
    byId("specific-dataset").append(...index.datasets.map(({ name }, i) => make("option", { value: i }, name)));
    byId("context-dataset").append(...index.datasets.map(({ name }) => make("option", { value: name }, name)));
    options(
      byId("text"),
      index.texts.map(({ dataset, document: id, tokens: n, plots }, i) => [
        i,
        `${dataset}, ${visible(`${id}`)} (${count(n)} tokens${plots ? ", probabilities" : ""})`,
      ]),
    );
    byId("dropped").hidden = !index.dropped.length;
    fill("dropped", `To stay within ${plain(index.megabytes)} MB these data do without: ${index.dropped.join("; ")}.`);
    drawGrid();
    listen();
    show();
  };

  document.addEventListener("DOMContentLoaded", () => {
    byId("browser").hidden = false;
    attempt(start);
  });
}
