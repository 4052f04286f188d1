"use strict";
// What readers explore in the place of a figure: matrices between the experts of a layer, maps of tokens, flows from layer
// to layer, a tree of paths, or circuits. The picture stays for print, and where this script or its data are missing. The
// data are classic scripts that each call `put` once.
{
  const PIXELS = 840; // of the grid of a matrix, which the page scales
  const LISTED = 5; // of the largest in a row
  const LETTERS = 11; // pixels that the number of an expert takes
  const COLOURS = 6;
  const COLUMNS = 4; // of bars side by side
  const ROWS = 40; // of a table of flows
  const NARROW = 1.3; // of 1000: a block that is no wider has less than 0.8 pixels
  const MARKS = [
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0Z",
    "M-3.6-3.6h7.2v7.2h-7.2Z",
    "M0-5 5 4H-5Z",
    "M0-5 5 0 0 5-5 0Z",
    "M0 5 5-4H-5Z",
    "M-1.6-5h3.2v3.4h3.4v3.2h-3.4v3.4h-3.2v-3.4h-3.4v-3.2h3.4Z",
  ];
  const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

  // ---- Data scripts ----

  const contents = new Map(); // promise of the content by address
  const waiting = new Map(); // what settles the promise, by the element of the script, until it has called `put`

  window.put = async (_, build, kind, text) => {
    const script = document.currentScript;
    const { done, failed } = waiting.get(script);
    waiting.delete(script);
    if (build !== script.dataset.build) return failed(new Error("is of another build than this page"));
    try {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
      return done(await new Response(stream).json());
    } catch {
      return failed(new Error("is damaged"));
    }
  };

  const content = ({ folder, build }, name) => {
    const src = `${folder}/${name}.js`;
    if (contents.has(src)) return contents.get(src);
    const read = new Promise((done, failed) => {
      const script = make("script", { src, "data-build": build });
      const missing = () => waiting.has(script) && failed(new Error("is missing or cannot be read"));
      script.addEventListener("error", missing);
      script.addEventListener("load", missing);
      waiting.set(script, { done, failed });
      document.head.append(script);
    });
    const told = read.catch(({ message }) => {
      throw new Error(`The file ${src} ${message}: copy the whole report again.`);
    });
    contents.set(src, told);
    return told;
  };

  // ---- Elements, numbers ----

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

  const select = (entries) => make("select", {}, ...entries.map(([value, text]) => make("option", { value }, text)));
  const labelled = (text, control) => make("label", {}, text, " ", control);
  let views = 0;
  const layerTabs = (layers) => {
    const name = `layers-${views++}`;
    const tab = (value) => make("label", {}, make("input", { type: "radio", name, value }), make("span", {}, `${value}`));
    const tabs = make("fieldset", { class: "layers" }, make("legend", {}, "Layer"), ...layers.map(tab));
    tabs.querySelector("input").checked = true;
    return tabs;
  };
  const chosen = (tabs) => Number(tabs.querySelector(":checked").value);
  // One tab stop, within which arrow keys move.
  const pad = (kind, ...children) => make("div", { class: kind, tabindex: "0", role: "application" }, ...children);

  // What pointer and keys do to a pad: `point` looks at a place, given in shares of its `area`, `step` goes on by one, and
  // Enter or a click follow the link `go`, unless it is hidden.
  const listen = (on, area, go, point, step) => {
    let pointer = "mouse";
    const look = (event) => {
      const box = area.getBoundingClientRect();
      point((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    const follow = () => go.hidden || (location.href = go.href);
    on.addEventListener("pointerdown", (event) => (pointer = event.pointerType));
    on.addEventListener("pointermove", look);
    on.addEventListener("click", (event) => {
      look(event);
      if (pointer === "mouse") follow(); // a finger has not seen what it points at
    });
    on.addEventListener("keydown", (event) => {
      if (event.key === "Enter") follow();
      if (!STEPS[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      step(...STEPS[event.key]);
    });
  };

  const sign = (text) => text.replace("-", "−");
  const plain = (number) => {
    if (number === null) return "not known";
    const [digits, power] = number.toExponential(1).split("e");
    if (number === 0 || power >= -4) return sign(`${Number(number.toPrecision(3))}`);
    return sign(`${digits} × 10`) + power.replace(/./g, (each) => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"["0123456789-".indexOf(each)]);
  };
  // An estimate with two significant digits of its interval's half-width, and the interval alike.
  const withInterval = (value, low, high) => {
    if (!(high > low)) return plain(value);
    const decimals = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10((high - low) / 2))));
    const [middle, start, end] = [value, low, high].map((number) => sign(number.toFixed(decimals)));
    return `${middle} [${start}, ${end}]`;
  };

  const address = (browser, layer, experts) =>
    `${browser}#tab=experts&l=${layer}&e=${[...new Set(experts)].sort((one, other) => one - other).join(",")}`;

  // ---- Matrices, one at a time ----

  const exploreMatrices = (host, index) => {
    const { browser } = host.dataset;
    const [first, firstLayer] = host.dataset.first.split(", ");
    const at = { row: -1, column: -1 }; // numbers of experts, or of layers
    let matrix, layer, labels, order, numbers; // what is shown; `order`: the number at each place

    const which = select(index.matrices.map(({ name, title }) => [name, title]));
    const orders = select(["number", "cluster", "load"].map((name) => [name, name]));
    const tabs = layerTabs(index.layers);
    const canvas = make("canvas", { "aria-hidden": "true" });
    const lines = { row: make("div", { class: "across" }), column: make("div", { class: "down" }) };
    const cells = pad("cells", canvas, lines.row, lines.column);
    const ids = ["rows", "columns"].map((kind) => make("div", { class: kind, "aria-hidden": "true" }));
    const told = make("output", { "aria-live": "polite" });
    const go = make("a", { class: "go" });
    const best = make("p", { class: "best" });
    const scale = make("div", { class: "scale" });
    const buttons = ["Copy row", "Copy matrix"].map((text) => make("button", { type: "button" }, text));
    const copied = make("textarea", { readonly: "", rows: "4", "aria-label": "Values to copy", hidden: "" });
    const about = make("p", { class: "about" });
    host.replaceChildren(
      make("div", { class: "choices" }, labelled("Matrix", which), labelled("Order by", orders), tabs),
      make("div", { class: "grid" }, ids[0], cells, ids[1]),
      make("div", { class: "beside" }, told, go, best, scale, make("p", {}, ...buttons), copied, about),
    );

    // Where a cell's numbers stand in the lists of a layer: row by row, or the upper triangle of a symmetric matrix.
    const number = (row, column, part = "") => {
      const size = labels.length;
      const [low, high] = row < column ? [row, column] : [column, row];
      const triangle = row === column ? -1 : low * size - (low * (low + 1)) / 2 + high - low - 1;
      return numbers[part][matrix.symmetric ? triangle : row * size + column] ?? null;
    };
    const isSignificant = (row, column) => matrix.level === null || number(row, column, "q") <= matrix.level;
    const leads = () => browser && !matrix.across;

    const words = (row, column) => {
      const of = matrix.columns ? ` (${matrix.columns})` : "";
      const where = `${matrix.across ? "Layers" : `L${layer}`} ${labels[row]} × ${labels[column]}${of}`;
      if (number(row, column) === null) return `${where}: ${row === column ? "the same" : "not known"}`;
      const [value, low, high] = ["", "low", "high"].map((part) => (numbers[part] ? number(row, column, part) : null));
      const others = matrix.beside.filter((part) => !["low", "high"].includes(part));
      const more = others.map((part) => `, ${part} = ${plain(number(row, column, part))}`);
      return `${where}: ${matrix.word} ${withInterval(value, low, high)}${more.join("")}`;
    };

    const csv = (rows) => {
      const other = matrix.columns.replace(" ", "_") || "other";
      const head = matrix.across ? ["layer", "other_layer"] : ["layer", "expert", other];
      const text = [[...head, matrix.name, ...matrix.beside].join(",")];
      for (const row of rows) {
        for (const column of labels.keys()) {
          if (number(row, column) === null) continue;
          const parts = ["", ...matrix.beside].map((part) => number(row, column, part) ?? "");
          text.push([...(matrix.across ? [] : [layer]), labels[row], labels[column], ...parts].join(","));
        }
      }
      return `${text.join("\n")}\n`;
    };
    const copy = async (button, text) => {
      const before = button.textContent;
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        copied.hidden = false;
        copied.value = text;
        copied.select();
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = before), 2000);
    };

    const share = (value) => {
      const [low, high, here] = [...matrix.limits, value].map(matrix.ratio ? Math.log2 : Number);
      return Math.min(1, Math.max(0, (here - low) / (high - low)));
    };
    const paint = () => {
      const size = Math.max(4, Math.floor(PIXELS / labels.length));
      canvas.width = canvas.height = size * labels.length;
      const brush = canvas.getContext("2d");
      const { colours } = matrix;
      order.forEach((row, y) =>
        order.forEach((column, x) => {
          const value = number(row, column);
          if (value === null) return;
          brush.fillStyle = colours[Math.round(share(value) * (colours.length - 1))];
          brush.fillRect(x * size, y * size, size, size);
          if (isSignificant(row, column)) return;
          for (const [style, width] of [
            ["#fff", 3],
            ["#000", 1.4],
          ]) {
            brush.strokeStyle = style;
            brush.lineWidth = width;
            brush.beginPath();
            brush.moveTo((x + 0.35) * size, (y + 0.65) * size);
            brush.lineTo((x + 0.65) * size, (y + 0.35) * size);
            brush.stroke();
          }
        }),
      );
    };

    // The numbers along both axes, as many as fit, and those of the cell that is looked at.
    const nameAxes = () => {
      ids.forEach((box, i) => {
        const [side, here, room] = i ? ["left", at.column, 1.5] : ["top", at.row, 1];
        const step = Math.ceil((room * LETTERS * labels.length) / (cells.clientWidth || 1));
        const names = order.map((each, place) => {
          const name = make("span", each === here ? { class: "here" } : {}, `${labels[each]}`);
          name.style[side] = `${(100 * (place + 0.5)) / labels.length}%`;
          return each === here || place % step === 0 ? name : "";
        });
        box.replaceChildren(...names);
      });
    };

    const showScale = () => {
      const strip = make("div", { class: "strip" });
      strip.style.background = `linear-gradient(to right, ${matrix.colours.join(", ")})`;
      const mark = (kind, value) => {
        const line = make(kind);
        line.style.left = `${100 * share(value)}%`;
        strip.append(line);
      };
      if (number(at.row, at.column) !== null) mark("i", number(at.row, at.column));
      const nulls = Object.entries(matrix.nulls).map(([title, values]) => {
        const value = values[matrix.across ? 0 : index.layers.indexOf(layer)];
        mark("b", value);
        return `${title}, ${plain(value)}`;
      });
      const [low, high] = matrix.limits.map(plain);
      scale.replaceChildren(
        strip,
        make("p", { class: "ends" }, make("span", {}, `≤ ${low}`), make("span", {}, `≥ ${high}`)),
        make("p", { class: "nulls" }, nulls.length ? `Null: ${nulls.join("; ")}` : ""),
      );
    };

    // Everything that depends on the cell that is looked at.
    const look = () => {
      const { row, column } = at;
      told.textContent = words(row, column);
      for (const [name, side, size] of [
        ["row", "top", "height"],
        ["column", "left", "width"],
      ]) {
        lines[name].style[side] = `${(100 * order.indexOf(at[name])) / labels.length}%`;
        lines[name].style[size] = `${100 / labels.length}%`;
      }
      go.hidden = !leads();
      go.href = address(browser, layer, [row, column]);
      const [low, high] = [Math.min(row, column), Math.max(row, column)];
      go.textContent = row === column ? `Show expert ${row}` : `Show experts ${low} and ${high}`;
      const others = order.filter((other) => other !== row && number(row, other) !== null);
      others.sort((one, other) => number(row, other) - number(row, one));
      const found = others.slice(0, LISTED).flatMap((other, i) => {
        const href = address(browser, layer, [row, other]);
        const name = leads() ? make("a", { href }, `${labels[other]}`) : `${labels[other]}`;
        return [i ? ", " : "", name, ` (${plain(number(row, other))})`];
      });
      best.replaceChildren(`Largest with ${labels[row]}: `, ...found);
      nameAxes();
      showScale();
    };

    const largest = () => {
      const all = order.flatMap((row) => order.map((column) => ({ row, column })));
      const value = ({ row, column }) => number(row, column) ?? -Infinity;
      return all.reduce((one, other) => (value(other) > value(one) ? other : one));
    };

    const titleOf = (name) => index.matrices.find((each) => each.name === name).title;
    const remarks = () => [
      `Arrow keys move the cross${leads() ? ", Enter or a click shows the experts in the browser" : ""}.`,
      orders.value === "cluster" && !matrix.across && matrix.name !== index.clustered.name
        ? `Clusters are those of “${index.clustered.title}”.`
        : "",
      matrix.name === first ? "" : `The words at the figure are about “${titleOf(first)}”.`,
      matrix.level === null
        ? ""
        : `Lines through cells: not significant at a false discovery rate of ${plain(100 * matrix.level)} %.`,
      index.left_out && !matrix.across
        ? `${index.left_out} of ${index.all_layers.length} layers are left out here for their size; the netCDF file has all.`
        : "",
    ];

    const show = async () => {
      const wanted = index.matrices.find((each) => each.name === which.value);
      const ofLayer = chosen(tabs);
      const found = await content(host.dataset, wanted.across ? "across" : ofLayer);
      if (wanted.name !== which.value || ofLayer !== chosen(tabs)) return; // another one was asked for meanwhile
      [matrix, layer, numbers] = [wanted, ofLayer, found.numbers[wanted.name]];
      tabs.hidden = orders.parentElement.hidden = matrix.across;
      orders.options[2].hidden = !found.load;
      labels = matrix.across ? index.all_layers : [...Array(index.experts).keys()];
      order = [...labels.keys()];
      if (!matrix.across && orders.value === "cluster") order = found.clustered;
      if (!matrix.across && orders.value === "load") order.sort((one, other) => found.load[other] - found.load[one]);
      if (at.row < 0 || Math.max(at.row, at.column) >= labels.length) Object.assign(at, largest());
      const name = `${matrix.title}${matrix.across ? "" : `, layer ${layer}`}`;
      cells.setAttribute("aria-label", `${name}: ${remarks()[0]}`);
      about.textContent = remarks().join(" ");
      paint();
      look();
    };

    const under = (part) => order[Math.min(labels.length - 1, Math.max(0, Math.floor(part * labels.length)))];
    const lookAt = (row, column) => look(Object.assign(at, { row, column }));
    const beyond = (here, by) => order[order.indexOf(here) + by] ?? here;
    listen(
      cells,
      cells,
      go,
      (x, y) => lookAt(under(y), under(x)),
      (down, right) => lookAt(beyond(at.row, down), beyond(at.column, right)),
    );
    buttons[0].addEventListener("click", () => copy(buttons[0], csv([at.row])));
    buttons[1].addEventListener("click", () => copy(buttons[1], csv(order)));
    for (const control of [which, orders, tabs]) {
      control.addEventListener("change", () => during(host, show));
    }
    new ResizeObserver(() => labels && nameAxes()).observe(cells);
    which.value = first;
    orders.value = "cluster";
    const tab = tabs.querySelector(`[value="${firstLayer}"]`);
    if (tab) tab.checked = true;
    return show();
  };

  // ---- Maps of tokens ----

  const explorePoints = (host, index) => {
    const { browser } = host.dataset;
    const [space, category] = host.dataset.first.split(", ");
    let layer, experts, of, places, trust, marks, only; // of: category of each point; only: the category that stands out
    let at = 0;

    const list = (names) => select(names.map((name) => [name, name]));
    const [spaces, maps, by] = [index.spaces, index.projections, index.categories].map(list);
    const tabs = layerTabs(index.layers);
    const svg = draw("svg", { viewBox: "-20 -20 1040 1040", "aria-hidden": "true" });
    const plot = pad("points", svg);
    const told = make("output", { "aria-live": "polite" });
    const go = make("a", { class: "go" });
    const legend = make("div", { class: "looks", role: "group", "aria-label": "Colours: press one to let it stand out" });
    const about = make("p", { class: "about" });
    host.replaceChildren(
      make(
        "div",
        { class: "choices" },
        labelled("Points", spaces),
        labelled("Map", maps),
        labelled("Colour by", by),
        tabs,
      ),
      plot,
      make("div", { class: "beside" }, told, go, legend, about),
    );

    // The names of the categories that have a look of their own: all, or the experts that most points choose first.
    const named = () => {
      const counts = new Map();
      for (const each of of) counts.set(each, (counts.get(each) ?? 0) + 1);
      const names = [...counts.keys()];
      if (index.of[by.value]) return names.slice(0, COLOURS * MARKS.length);
      return names.sort((one, other) => counts.get(other) - counts.get(one) || one - other).slice(0, COLOURS);
    };
    const word = (name) => (index.of[by.value] ? `${name}` : `expert ${name}`);
    const mark = (look) => {
      const [row, colour] = [Math.floor(look / COLOURS), look % COLOURS];
      const kind = look < 0 ? "other" : `colour-${colour + 1}`;
      return draw("path", { class: kind, d: MARKS[look < 0 ? 0 : (row + colour) % MARKS.length] });
    };

    const look = () => {
      marks.forEach((each, point) => each.classList.toggle("here", point === at));
      svg.append(marks[at]); // above the others
      const { before, text, after } = index.texts;
      const names = Object.entries(index.of).map(([, values]) => values[at]);
      told.replaceChildren(
        `${[...names, `L${layer} expert ${experts[at]}`].join(", ")}: `,
        ...[before[at], make("mark", {}, text[at]), after[at]].map((part) => make("bdi", {}, part)),
      );
      go.hidden = !browser;
      go.href = address(browser, layer, [experts[at]]);
      go.textContent = `Show expert ${experts[at]}`;
    };

    const isolate = () => {
      [...legend.children].forEach((button) => button.setAttribute("aria-pressed", button.value === only));
      marks.forEach((each, point) => each.classList.toggle("faint", only !== undefined && `${of[point]}` !== only));
    };

    const show = async () => {
      const wanted = chosen(tabs);
      const found = await content(host.dataset, wanted);
      if (wanted !== chosen(tabs)) return;
      layer = wanted;
      [experts] = Object.values(found.of);
      of = index.of[by.value] ?? found.of[by.value];
      [places, trust] = [found.positions, found.trustworthiness].map(
        (part) => part[index.spaces.indexOf(spaces.value)][index.projections.indexOf(maps.value)],
      );
      const names = named();
      marks = places.map(([x, y], point) => {
        const made = mark(names.indexOf(of[point]));
        made.setAttribute("transform", `translate(${x} ${1000 - y}) scale(1.5)`);
        return made;
      });
      svg.replaceChildren(...marks);
      legend.replaceChildren(
        ...names.map((name, i) => {
          const swatch = draw("svg", { viewBox: "-6 -6 12 12", width: 14, height: 14, "aria-hidden": "true" }, mark(i));
          return make("button", { type: "button", value: `${name}` }, swatch, word(name));
        }),
      );
      if (!names.some((name) => `${name}` === only)) only = undefined;
      about.textContent =
        `Arrow keys go to the next token${browser ? ", Enter or a click shows its first expert in the browser" : ""}. ` +
        `${names.length < new Set(of).size ? "Grey: others. " : ""}Trustworthiness of this map: ${plain(trust)}. ` +
        "Distances along the axes are for the eye only.";
      plot.setAttribute("aria-label", `${spaces.value}s, ${maps.value}, layer ${layer}: ${about.textContent}`);
      isolate();
      look();
    };

    // The nearest point in a direction, or to a place, of those that stand out.
    const nearest = (x, y, [down, right]) => {
      const distance = ([px, py], point) => {
        const [dx, dy] = [px - x, y - py];
        if (marks[point].classList.contains("faint")) return Infinity;
        if (!down && !right) return dx * dx + dy * dy;
        const [along, aside] = right ? [dx * right, dy] : [dy * down, dx];
        return along > 0 ? along + 2 * Math.abs(aside) : Infinity;
      };
      const all = places.map(distance);
      const least = Math.min(...all);
      return least < Infinity ? all.indexOf(least) : at;
    };

    const lookAt = (...place) => look((at = nearest(...place)));
    listen(
      plot,
      svg,
      go,
      (x, y) => lookAt(1040 * x - 20, 1020 - 1040 * y, [0, 0]),
      (...step) => lookAt(...places[at], step),
    );
    legend.addEventListener("click", ({ target }) => {
      const button = target.closest("button");
      if (!button) return;
      only = only === button.value ? undefined : button.value;
      isolate();
    });
    for (const control of [spaces, maps, by, tabs]) {
      control.addEventListener("change", () => during(host, show));
    }
    [spaces.value, by.value] = [space, category];
    return show();
  };

  // ---- Tokens that go from layer to layer ----

  const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);
  const ofTokens = (share) => `${plain(100 * share)} % of tokens`;

  // Coloured by ratios, or by `kinds`, what a bar and what leaves it mean.
  const exploreRibbons = (host, { ribbons, layers, heads, colour, limits = [], colours = [], null: given }) => {
    const { browser } = host.dataset;
    let bars, steps, total, meanings, kinds, holds;
    const [high, wide, gap] = [1060, 26, 8]; // of the picture, of a bar, between bars
    let marks, at, end; // of the ribbons that are shown: {step, row, column, path}, from above in each step; the bar told

    const tabs = layerTabs(layers.slice(0, Math.max(1, layers.length - COLUMNS + 1)));
    tabs.querySelector("legend").textContent = "From layer";
    tabs.hidden = layers.length <= COLUMNS;
    const word = select(ribbons.map(({ name }, i) => [i, name]));
    const svg = draw("svg", { viewBox: `-60 -32 1120 ${high + 40}`, "aria-hidden": "true" });
    const plot = pad("ribbons", svg);
    const told = make("output", { "aria-live": "polite" });
    const go = make("a", { class: "go" });
    const strip = make("div", { class: "strip" });
    strip.style.background = `linear-gradient(to right, ${colours.join(", ")})`;
    const [least, most] = limits.map(plain);
    const ends = make("p", { class: "ends" }, make("span", {}, `≤ ${least}`), make("span", {}, `≥ ${most}`));
    const scale = make("div", {}, strip, ends);
    const about = make("p", { class: "about" });
    const rows = make("tbody");
    const head = ["From", "To", ...heads].map((text) => make("th", { scope: "col" }, text));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), rows);
    host.replaceChildren(
      make("div", { class: "choices" }, ribbons[1] ? labelled("Word", word) : "", tabs),
      plot,
      make("div", { class: "beside" }, told, go, scale, about),
      make("details", { class: "wide" }, make("summary", {}, "Table of these flows"), table),
    );

    const bar = (column, place) => bars[column][place];
    const named = (column, place) => (bar(column, place) < 0 ? "others" : `${bar(column, place)}`);
    const worded = (column, place) =>
      `layer ${layers[column]} ${bar(column, place) < 0 ? "others" : `expert ${bar(column, place)}`}`;
    const known = ({ step, row, column }) => bar(step, row) >= 0 && bar(step + 1, column) >= 0;
    const part = (name, { step, row, column }) => steps[step][name]?.[row][column] ?? null;
    const meaning = ({ step, row }) => meanings[kinds[step][row]];
    const times = (each) => withInterval(...["ratio", "low", "high"].map((name) => part(name, each)));
    const words = (each) => {
      const [one, other] = [worded(each.step, each.row), worded(each.step + 1, each.column)];
      const more = part("ratio", each) === null ? "" : `, ${times(each)} times as many as ${given} give`;
      const many = kinds ? `${part("tokens", each)} of ${meaning(each)[1]}` : ofTokens(part("tokens", each) / total);
      return `L${one.slice(1)} → ${other}: ${many}${more}`;
    };
    // Colour and opacity of a ratio; what is no more than the null gives is faint on a light page and on a dark one.
    const lookOf = (ratio) => {
      const [low, top, here] = [...limits, ratio].map(Math.log2);
      const place = Math.round(Math.min(1, Math.max(0, (here - low) / (top - low))) * (colours.length - 1));
      return { fill: colours[place], "fill-opacity": Math.min(0.9, 0.2 + 0.7 * Math.abs(here)) };
    };

    const look = () => {
      for (const each of marks) each.path.classList.toggle("here", each === at);
      svg.querySelector("text").before(at.path); // above the other flows
      told.textContent = words(at) + (holds?.[end[0]][end[1]] ?? "");
      const shown = [end, [at.step + 1, at.column], [at.step, at.row]].find((where) => bar(...where) >= 0);
      go.hidden = !browser || !shown;
      if (!shown) return;
      go.href = address(browser, layers[shown[0]], [bar(...shown)]);
      go.textContent = `Show expert ${bar(...shown)} of layer ${layers[shown[0]]}`;
    };
    const list = () => {
      const found = marks.filter(({ step }) => step === at.step);
      found.sort((one, other) => part("tokens", other) - part("tokens", one));
      const cells = (each) => [
        worded(each.step, each.row),
        worded(each.step + 1, each.column),
        kinds ? part("tokens", each) : plain((100 * part("tokens", each)) / total),
        kinds ? meaning(each)[0] : part("ratio", each) === null ? "not known" : times(each),
      ];
      rows.replaceChildren(
        ...found.slice(0, ROWS).map((each) => make("tr", {}, ...cells(each).map((text) => make("td", {}, text)))),
      );
    };
    const goTo = (each, where = each && [each.step + 1, each.column]) => {
      if (!each || (each === at && `${where}` === `${end}`)) return;
      const before = at?.step;
      [at, end] = [each, where];
      look();
      if (before !== at.step) list();
    };
    const largest = (found) =>
      found.reduce((one, other) => (one && part("tokens", one) >= part("tokens", other) ? one : other), undefined);

    const show = () => {
      ({ bars, steps, meanings, kinds, holds } = ribbons[word.value]);
      total = sum(steps[0].tokens.flat());
      const by = (kind) => ({ class: `colour-${kind + 1}` });
      if (kinds) scale.replaceChildren(...meanings.map(([text], kind) => make("mark", by(kind), text)));
      const first = layers.indexOf(chosen(tabs));
      const columns = Math.min(COLUMNS, layers.length - first);
      const x = (column) => ((column - first) * (1000 - wide)) / (columns - 1);
      const size = (column, place) => {
        const step = Math.min(column, steps.length - 1);
        const { tokens } = steps[step];
        return sum(step === column ? tokens[place] : tokens.map((row) => row[place])) / total;
      };
      const [rects, texts, tops, scales] = [[], [], {}, {}];
      for (let column = first; column < first + columns; column++) {
        scales[column] = high - gap * (new Set(bars[column]).size - 1);
        let [y, start] = [0, 0];
        tops[column] = bars[column].map((expert, place) => {
          const top = y;
          const tall = size(column, place) * scales[column];
          rects.push(draw("rect", { x: x(column), y: top, width: wide, height: tall, "data-bar": `${column} ${place}`, ...(kinds && by(kinds[column][place])) }));
          const side = column === first ? { x: -6, "text-anchor": "end" } : { x: x(column) + wide + 6 };
          y += tall;
          if (expert === bar(column, place + 1)) return top;
          if (y - start > 15) texts.push(draw("text", { y: (start + y) / 2 + 5, ...side }, named(column, place)));
          start = y += gap;
          return top;
        });
        texts.push(draw("text", { x: x(column), y: -10 }, `Layer ${layers[column]}`));
      }
      marks = [];
      for (let step = first; step < first + columns - 1; step++) {
        const starts = [...tops[step]];
        const arrivals = [...tops[step + 1]];
        steps[step].tokens.forEach((row, from) =>
          row.forEach((tokens, to) => {
            if (!tokens) return;
            const [left, right] = [starts[from], arrivals[to]];
            const [thick, thin] = [step, step + 1].map((column) => (tokens / total) * scales[column]);
            starts[from] += thick;
            arrivals[to] += thin;
            const [a, b] = [x(step) + wide, x(step + 1)];
            const mid = (a + b) / 2;
            const d = `M${a} ${left}C${mid} ${left} ${mid} ${right} ${b} ${right}v${thin}C${mid} ${right + thin} ${mid} ${left + thick} ${a} ${left + thick}Z`;
            const each = { step, row: from, column: to };
            const ratio = known(each) ? part("ratio", each) : null;
            const shown = kinds ? by(kinds[step][from]) : ratio === null ? { class: "others" } : lookOf(ratio);
            const path = draw("path", { d, "data-mark": marks.length, ...shown }, draw("title", {}, words(each)));
            marks.push({ ...each, path });
          }),
        );
      }
      svg.replaceChildren(...rects, ...marks.map(({ path }) => path), ...texts);
      about.textContent = `Up and down go along the flows between two layers, left and right follow them${browser ? ", Enter shows an expert in the browser" : ""}. ${colour}`;
      plot.setAttribute("aria-label", `Flows from layer ${layers[first]} to ${layers[first + columns - 1]}: ${about.textContent}`);
      at = undefined;
      goTo(largest(marks.filter(known)) ?? marks[0]);
    };

    plot.addEventListener("pointermove", ({ target }) => {
      if (target.dataset.mark) return goTo(marks[target.dataset.mark]);
      if (!target.dataset.bar) return undefined;
      const [column, place] = target.dataset.bar.split(" ").map(Number);
      const through = ({ step, row, column: to }) => (step === column && row === place) || (step + 1 === column && to === place);
      return goTo(largest(marks.filter(through)), [column, place]);
    });
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !go.hidden) location.href = go.href;
      const [down, right] = STEPS[event.key] ?? [];
      if (down === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      const next = marks[marks.indexOf(at) + down];
      if (down && next?.step === at.step) goTo(next);
      if (right > 0) goTo(largest(marks.filter(({ step, row }) => step === at.step + 1 && row === at.column)));
      if (right < 0) goTo(largest(marks.filter(({ step, column }) => step === at.step - 1 && column === at.row)) ?? at, [at.step, at.row]);
    });
    for (const control of [word, tabs]) control.addEventListener("change", show);
    show();
  };

  // ---- Paths through layers ----

  const exploreTree = (host, { windows, total }) => {
    const { browser } = host.dataset;
    let root, top, at, blocks, layers; // top: what fills the width; blocks: the nodes that are shown

    const tabs = layerTabs(windows.map((window) => window.at(-1)));
    tabs.querySelector("legend").textContent = "Up to layer";
    tabs.hidden = windows.length < 2;
    const svg = draw("svg", { "aria-hidden": "true" });
    const plot = pad("tree", svg);
    const told = make("output", { "aria-live": "polite" });
    const go = make("a", { class: "go" });
    const about = make("p", { class: "about" });
    host.replaceChildren(
      make("div", { class: "choices" }, tabs),
      plot,
      make("div", { class: "beside" }, told, go, about),
    );

    const grow = (paths, tokens) => {
      const made = { tokens: 0, path: [], children: new Map() };
      paths.forEach((path, i) => {
        let node = made;
        node.tokens += tokens[i];
        path.forEach((expert, level) => {
          if (!node.children.has(expert)) {
            const below = { tokens: 0, path: path.slice(0, level + 1), parent: node, children: new Map() };
            node.children.set(expert, below);
          }
          node = node.children.get(expert);
          node.tokens += tokens[i];
        });
      });
      return made;
    };
    const below = (node) => [...node.children.values()].sort((one, other) => other.tokens - one.tokens);
    const words = ({ path, tokens }) => {
      const where = path.length === 1 ? `Layer ${layers[0]}, expert` : `Layers ${layers[0]} to ${layers[path.length - 1]}, experts`;
      return `${where} ${path.join(" → ")}: ${ofTokens(tokens / total)}`;
    };

    const look = () => {
      for (const { node, rect } of blocks) rect.classList.toggle("here", node === at);
      told.textContent = words(at);
      go.hidden = !browser;
      const [layer, expert] = [layers[at.path.length - 1], at.path.at(-1)];
      go.href = address(browser, layer, [expert]);
      go.textContent = `Show expert ${expert} of layer ${layer}`;
    };
    const paint = () => {
      const [wide, tall] = [1000, 1000 / layers.length];
      const shown = [];
      blocks = [];
      const put = (node, start, look) => {
        const [level, width] = [node.path.length - 1, (node.tokens / top.tokens) * wide];
        const rect = draw("rect", { x: start, y: level * tall, width, height: tall - 4, class: look, "data-block": blocks.length });
        rect.append(draw("title", {}, words(node)));
        blocks.push({ node, rect });
        shown.push(rect);
        if (width > 26) shown.push(draw("text", { x: start + width / 2, y: (level + 0.55) * tall, class: `name ${look}` }, `${node.path.at(-1)}`));
        split(node, start, look);
      };
      const split = (node, start, look) => {
        let [x, rest] = [start, 0];
        below(node).forEach((child, i) => {
          const width = (child.tokens / top.tokens) * wide;
          if (width < NARROW) return void (rest += width);
          put(child, x, look ? `${look.split(" ")[0]}${i % 2 ? " odd" : ""}` : `colour-${(i % COLOURS) + 1}`);
          x += width;
        });
        if (rest) shown.push(draw("rect", { x, y: node.path.length * tall, width: rest, height: tall - 4, class: "others" }));
      };
      const above = [];
      for (let node = top; node.parent; node = node.parent) above.unshift(node);
      for (const node of above.slice(0, -1)) {
        const rect = draw("rect", { x: 0, y: (node.path.length - 1) * tall, width: wide, height: tall - 4, class: "others", "data-block": blocks.length });
        blocks.push({ node, rect });
        shown.push(rect, draw("text", { x: wide / 2, y: (node.path.length - 0.45) * tall }, `${node.path.at(-1)}`));
      }
      if (top === root) split(root, 0, "");
      else put(top, 0, "colour-1");
      svg.setAttribute("viewBox", `0 0 ${wide} ${tall * layers.length}`);
      svg.replaceChildren(...shown);
      if (!blocks.some(({ node }) => node === at)) at = blocks[0].node;
      look();
    };
    const zoom = (node) => {
      top = node === top ? root : node;
      paint();
    };

    const show = async () => {
      const wanted = chosen(tabs);
      const found = await content(host.dataset, wanted);
      if (wanted !== chosen(tabs)) return;
      layers = windows.find((window) => window.at(-1) === wanted);
      root = top = grow(found.paths, found.tokens);
      at = undefined;
      about.textContent =
        `The ${found.paths.length.toLocaleString("en")} most frequent paths, ${ofTokens(root.tokens / total)}. Arrow keys go to the block beside, above or below; ` +
        "Enter or a click widens a block to the whole width, and again to all. Grey: narrow blocks together.";
      plot.setAttribute("aria-label", `Paths through layers ${layers[0]} to ${layers.at(-1)}: ${about.textContent}`);
      paint();
    };

    plot.addEventListener("pointermove", ({ target }) => {
      if (!target.dataset.block) return;
      at = blocks[target.dataset.block].node;
      look();
    });
    plot.addEventListener("click", ({ target }) => target.dataset.block && zoom(blocks[target.dataset.block].node));
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Enter") return zoom(at);
      const [down, right] = STEPS[event.key] ?? [];
      if (down === undefined || event.ctrlKey || event.altKey || event.metaKey) return undefined;
      event.preventDefault();
      const shown = blocks.map(({ node }) => node);
      const level = shown.filter((node) => node.path.length === at.path.length);
      const next = right ? level[level.indexOf(at) + right] : down < 0 ? at.parent : below(at)[0];
      if (!shown.includes(next)) return undefined;
      at = next;
      return look();
    });
    tabs.addEventListener("change", () => during(host, show));
    tabs.querySelector(`[value="${host.dataset.first}"]`).checked = true;
    return show();
  };

  // ---- Circuits ----

  const exploreGraph = (host, { graphs, titles, unit }) => {
    const { browser, first } = host.dataset;
    const { nodes, edges } = graphs[titles.indexOf(first)];
    const order = edges.map((_, number) => number).sort((one, other) => Math.abs(edges[other][2]) - Math.abs(edges[one][2]));
    const most = Math.abs(edges[order[0]]?.[2] ?? 1);
    const place = ({ at: [x, y] }) => [x * 0.9 + 50, y * 0.46 + 20];
    const words = ([from, to, ...value]) => `${nodes[from].name} → ${nodes[to].name}: ${withInterval(...value)} ${unit}`;
    const svg = draw("svg", { viewBox: "0 0 1000 500", "aria-hidden": "true" });
    const plot = pad("graph", svg);
    const told = make("output", { "aria-live": "polite" });
    const go = make("a", { class: "go" });
    const about = make("p", { class: "about" });
    about.textContent =
      `Up and down go along the edges by their size, left and right follow them${browser ? ", Enter shows an expert in the browser" : ""}. ` +
      "Thickness: the size of an edge; the second colour: edges that work against the answer.";
    plot.setAttribute("aria-label", `Circuit of the task ${first}: ${about.textContent}`);
    const paths = order.map((number) => {
      const [from, to, value] = edges[number];
      const [[x, y], [toX, toY]] = [from, to].map((node) => place(nodes[node]));
      const middle = (x + toX) / 2;
      const d = `M${x} ${y}C${middle} ${y} ${middle} ${toY} ${toX} ${toY}`;
      const width = Math.max(1.2, (14 * Math.abs(value)) / most);
      return draw("path", { d, "stroke-width": width, "data-edge": number, class: value < 0 ? "against" : "" });
    });
    const names = nodes.map((node, number) => {
      const [x, y] = place(node);
      const wide = 9 * node.name.length + 14;
      const shape = draw("rect", { x: x - wide / 2, y: y - 15, width: wide, height: 30, rx: 5 });
      return draw("g", { "data-node": number }, shape, draw("text", { x, y: y + 5 }, node.name));
    });
    svg.append(...[...paths].reverse(), ...names);
    const rows = order.map((number) => {
      const [from, to, ...value] = edges[number];
      const cells = [nodes[from].name, nodes[to].name, withInterval(...value)];
      return make("tr", {}, ...cells.map((text) => make("td", {}, text)));
    });
    const head = ["From", "To", unit].map((text) => make("th", { scope: "col" }, text));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows));
    host.replaceChildren(
      plot,
      make("div", { class: "beside" }, told, go, about),
      make("details", { class: "wide" }, make("summary", {}, "Table of these edges"), table),
    );
    let at; // number of the edge that is looked at
    const goTo = (number, end = 1) => {
      if (number === undefined) return;
      at = number;
      const [from, to] = edges[at];
      for (const path of paths) path.classList.toggle("here", path.dataset.edge === `${at}`);
      names.forEach((name, node) => name.classList.toggle("at", node === from || node === to));
      told.textContent = words(edges[at]);
      const shown = (end ? [to, from] : [from, to]).map((node) => nodes[node]).find(({ expert }) => expert >= 0);
      go.hidden = !browser || !shown;
      if (go.hidden) return;
      go.href = address(browser, shown.layer, [shown.expert]);
      go.textContent = `Show expert ${shown.expert} of layer ${shown.layer}`;
    };
    const strongest = (end, node) => order.find((number) => edges[number][end] === node);
    const look = (target) => {
      if (target.dataset.edge) return goTo(Number(target.dataset.edge));
      const node = target.closest?.("[data-node]")?.dataset.node;
      if (node === undefined) return undefined;
      const into = strongest(1, Number(node));
      return into === undefined ? goTo(strongest(0, Number(node)), 0) : goTo(into);
    };
    plot.addEventListener("pointermove", ({ target }) => look(target));
    plot.addEventListener("click", ({ target }) => {
      look(target);
      if (target.closest?.("[data-node]") && !go.hidden) location.href = go.href;
    });
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !go.hidden) location.href = go.href;
      const [down, right] = STEPS[event.key] ?? [];
      if (down === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      if (down) goTo(order[order.indexOf(at) + down]);
      if (right > 0) goTo(strongest(0, edges[at][1]));
      if (right < 0) goTo(strongest(1, edges[at][0]), 0);
    });
    goTo(order[0]);
  };

  // ---- In the place of pictures ----

  // Tells that something is loading; where it is missing the picture is all there is, with a sentence that says why.
  const during = async (host, work) => {
    host.setAttribute("aria-busy", "true");
    try {
      await work();
    } catch ({ message }) {
      host.closest("figure").classList.remove("explored");
      host.replaceChildren(make("p", { role: "alert" }, message));
    }
    host.removeAttribute("aria-busy");
  };

  const open = (host) =>
    during(host, async () => {
      const index = await content(host.dataset, "index");
      const explore = { matrices: exploreMatrices, ribbons: exploreRibbons, windows: exploreTree, graphs: exploreGraph };
      const kind = Object.keys(explore).find((name) => index[name]);
      await (explore[kind] ?? explorePoints)(host, index);
    });

  // The place of each is taken before its data come, so that what a reader looks at does not move.
  document.addEventListener("DOMContentLoaded", () => {
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watch.unobserve(target);
          target.querySelector("img").loading = "eager"; // it is hidden, and there for print
          open(target.querySelector(".explore"));
        }
      },
      { rootMargin: "600px" },
    );
    document.querySelectorAll("figure:has(.explore)").forEach((figure) => {
      figure.classList.add("explored");
      figure.querySelector(".explore").hidden = false;
      watch.observe(figure);
    });
  });
}
