"use strict";
// What readers explore in the place of a figure: matrices between the experts of a layer. The picture stays for print, and
// where this script or its data are missing. The data are classic scripts that each call `put` once.
{
  const HATCHED = 0.28; // of a cell's width: the line through a cell that is not significant
  const PIXELS = 840; // of the picture's own grid, which the page scales
  const LISTED = 5; // of the largest in a row
  const LETTERS = 11; // pixels that the number of an expert takes

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
    if (!contents.has(src)) {
      const read = new Promise((done, failed) => {
        const script = make("script", { src, "data-build": build });
        const missing = () => waiting.has(script) && failed(new Error("is missing or cannot be read"));
        script.addEventListener("error", missing);
        script.addEventListener("load", missing);
        waiting.set(script, { done, failed });
        document.head.append(script);
      });
      contents.set(
        src,
        read.catch((problem) => {
          throw new Error(`The file ${src} ${problem.message}: copy the whole report again.`);
        }),
      );
    }
    return contents.get(src);
  };

  // ---- Elements, numbers ----

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };
  const labelled = (text, control) => make("label", {}, text, " ", control);
  const select = (entries) => make("select", {}, ...entries.map(([value, text]) => make("option", { value }, text)));
  const sign = (text) => text.replace("-", "−");
  const plain = (number) => {
    if (number === null) return "not known";
    const [digits, power] = number.toExponential(1).split("e");
    if (number && power < -4) return sign(`${digits} × 10`) + power.replace(/./g, (each) => "⁰¹²³⁴⁵⁶⁷⁸⁹⁻"["0123456789-".indexOf(each)]);
    return sign(`${Number(number.toPrecision(3))}`);
  };
  const known = (number) => number !== null && number !== undefined;

  // An estimate with two significant digits of its interval's half-width, and the interval alike.
  const withInterval = (value, low, high) => {
    if (!known(value) || !known(low) || !known(high) || !(high > low)) return plain(value ?? null);
    const decimals = Math.max(0, 1 - Math.floor(Math.log10((high - low) / 2)));
    const [middle, start, end] = [value, low, high].map((number) => sign(number.toFixed(Math.min(decimals, 6))));
    return `${middle} [${start}, ${end}]`;
  };

  const shade = (matrix, value) => {
    const [low, high] = matrix.ratio ? matrix.limits.map(Math.log2) : matrix.limits;
    const share = ((matrix.ratio ? Math.log2(value) : value) - low) / (high - low);
    return Math.min(1, Math.max(0, share));
  };
  const colour = ({ colours }, share) => colours[Math.round(share * (colours.length - 1))];

  // ---- One matrix at a time ----

  let views = 0;

  const explore = (host, index) => {
    const { browser, name } = host.dataset;
    const place = { folder: host.dataset.folder, build: host.dataset.build };
    const id = `explore-${views++}`;
    const at = { row: -1, column: -1 }; // numbers of experts, or of layers
    let matrix, layer, labels, order, numbers; // what is shown; `order`: the number at each place

    const which = select(index.matrices.map(({ name, title }) => [name, title]));
    const orders = select([
      ["number", "number"],
      ["clustered", "cluster"],
      ["load", "load"],
    ]);
    const layers = make("fieldset", { class: "layers" }, make("legend", {}, "Layer"));
    layers.append(
      ...index.layers.map((each) =>
        make("label", {}, make("input", { type: "radio", name: id, value: each }), make("span", {}, `${each}`)),
      ),
    );
    const canvas = make("canvas", { "aria-hidden": "true" });
    const [across, down] = [make("div", { class: "across" }), make("div", { class: "down" })];
    const cells = make(
      "div",
      { class: "cells", tabindex: "0", role: "application", "aria-describedby": `${id}-help` },
      canvas,
      across,
      down,
    );
    const rows = make("div", { class: "rows", "aria-hidden": "true" });
    const columns = make("div", { class: "columns", "aria-hidden": "true" });
    const told = make("output", { "aria-live": "polite" });
    const best = make("p", { class: "best" });
    const scale = make("div", { class: "scale" });
    const about = make("p", { class: "about" });
    const go = make("a", { class: "go" });
    const copied = make("textarea", { readonly: "", rows: "4", "aria-label": "Values to copy", hidden: "" });
    const buttons = ["Copy row", "Copy matrix"].map((text) => make("button", { type: "button" }, text));
    const help = make("p", { class: "help", id: `${id}-help` });
    host.replaceChildren(
      make("div", { class: "choices" }, labelled("Matrix", which), labelled("Order by", orders), layers),
      make("div", { class: "grid" }, rows, cells, columns),
      make("div", { class: "beside" }, told, go, best, scale, make("p", {}, ...buttons), copied, about, help),
    );

    const size = () => labels.length;
    const word = () => (matrix.across ? "layers" : "experts");

    // Where a cell's numbers stand in the lists of a layer.
    const position = (row, column) => {
      if (!matrix.symmetric) return row * size() + column;
      const [low, high] = row < column ? [row, column] : [column, row];
      return row === column ? -1 : low * size() - (low * (low + 1)) / 2 + high - low - 1;
    };
    const number = (row, column, part = "") => numbers[part][position(row, column)] ?? null;

    const largest = () => {
      const all = labels.flatMap((_, row) => labels.map((_, column) => ({ row, column, value: number(row, column) })));
      return all.reduce((best, each) => (each.value !== null && !(each.value <= best.value) ? each : best), all[0]);
    };

    const words = (row, column) => {
      const value = number(row, column);
      const where = `${matrix.across ? "" : `L${layer} `}${labels[row]} × ${labels[column]}${matrix.columns && ` (${matrix.columns})`}`;
      if (value === null) return `${where}: ${row === column ? "the same" : "not known"}`;
      const parts = matrix.beside.map((part) => [part, number(row, column, part)]);
      const { low, high, ...others } = Object.fromEntries(parts);
      const more = Object.entries(others).map(([part, found]) => `, ${part} = ${plain(found)}`);
      return `${where}: ${matrix.word} ${withInterval(value, low, high)}${more.join("")}`;
    };

    const address = (row, column) => {
      const experts = [...new Set([row, column])].sort((one, other) => one - other);
      return `${browser}#tab=experts&l=${layer}&e=${experts.join(",")}`;
    };
    const led = () => browser && !matrix.across;

    const csv = (of) => {
      const head = matrix.across ? ["layer", "other_layer"] : ["layer", "expert", matrix.columns.replace(" ", "_") || "other"];
      const lines = [[...head, matrix.name, ...matrix.beside].join(",")];
      for (const row of of) {
        for (let column = 0; column < size(); column++) {
          if (number(row, column) === null) continue;
          const parts = ["", ...matrix.beside].map((part) => number(row, column, part) ?? "");
          lines.push([...(matrix.across ? [] : [layer]), labels[row], labels[column], ...parts].join(","));
        }
      }
      return `${lines.join("\n")}\n`;
    };

    const copy = async (button, text) => {
      const before = button.textContent;
      copied.hidden = true;
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

    // ---- Drawing ----

    const draw = () => {
      const cell = Math.max(4, Math.floor(PIXELS / size()));
      canvas.width = canvas.height = cell * size();
      const brush = canvas.getContext("2d");
      order.forEach((row, y) =>
        order.forEach((column, x) => {
          const value = number(row, column);
          if (value === null) return;
          const share = shade(matrix, value);
          brush.fillStyle = colour(matrix, share);
          brush.fillRect(x * cell, y * cell, cell, cell);
          if (matrix.level === null || number(row, column, "q") <= matrix.level) {
            if (matrix.level === null || number(row, column, "q") !== null) return;
          }
          for (const [style, width] of [
            ["#fff", 3],
            ["#000", 1.4],
          ]) {
            const half = (cell * HATCHED) / 2;
            brush.strokeStyle = style;
            brush.lineWidth = width;
            brush.beginPath();
            brush.moveTo((x + 0.5) * cell - half, (y + 0.5) * cell + half);
            brush.lineTo((x + 0.5) * cell + half, (y + 0.5) * cell - half);
            brush.stroke();
          }
        }),
      );
    };

    // The numbers of experts along both axes, as many as fit, and those of the cell that is looked at.
    const name_ = () => {
      const step = Math.max(1, Math.ceil((LETTERS * size()) / (cells.clientWidth || 1)));
      const wide = Math.max(1, Math.ceil((1.5 * LETTERS * size()) / (cells.clientWidth || 1)));
      const put = (box, side, every, here) => {
        const shown = order.map((each, place) => [each, place]).filter(([each, place]) => each === here || place % every === 0);
        box.replaceChildren(
          ...shown.map(([each, place]) => {
            const label = make("span", each === here ? { class: "here" } : {}, `${labels[each]}`);
            label.style[side] = `${(100 * (place + 0.5)) / size()}%`;
            return label;
          }),
        );
      };
      put(rows, "top", step, at.row);
      put(columns, "left", wide, at.column);
    };

    const bar = () => {
      const strip = make("div", { class: "strip" });
      strip.style.background = `linear-gradient(to right, ${matrix.colours.join(", ")})`;
      const [low, high] = matrix.limits;
      const mark = make("i", {});
      const value = number(at.row, at.column);
      mark.hidden = value === null;
      mark.style.left = `${100 * shade(matrix, value)}%`;
      strip.append(mark);
      const nulls = Object.entries(matrix.nulls).map(([title, values]) => {
        const null_ = values[matrix.across ? 0 : index.layers.indexOf(layer)];
        const line = make("b", {});
        line.style.left = `${100 * shade(matrix, null_)}%`;
        strip.append(line);
        return `${title}, ${plain(null_)}`;
      });
      const ends = make("p", { class: "ends" }, make("span", {}, `≤ ${plain(low)}`), make("span", {}, `≥ ${plain(high)}`));
      const told = make("p", { class: "nulls" }, nulls.length ? `Null: ${nulls.join("; ")}` : "");
      scale.replaceChildren(strip, ends, told);
    };

    // Everything that depends on the cell that is looked at.
    const look = () => {
      const { row, column } = at;
      told.textContent = words(row, column);
      for (const [box, side, here] of [
        [across, "top", row],
        [down, "left", column],
      ]) {
        box.style[side] = `${(100 * order.indexOf(here)) / size()}%`;
        box.style[side === "top" ? "height" : "width"] = `${100 / size()}%`;
      }
      go.hidden = !led();
      if (led()) {
        go.href = address(row, column);
        go.textContent = `Show ${row === column ? `expert ${row}` : `experts ${Math.min(row, column)} and ${Math.max(row, column)}`}`;
      }
      const others = labels.map((_, other) => [other, number(row, other)]).filter(([other, value]) => other !== row && value !== null);
      others.sort(([, one], [, other]) => other - one);
      best.replaceChildren(
        `Largest with ${labels[row]}: `,
        ...others.slice(0, LISTED).flatMap(([other, value], i) => [
          i ? ", " : "",
          led() ? make("a", { href: address(row, other) }, `${labels[other]}`) : `${labels[other]}`,
          ` (${plain(value)})`,
        ]),
      );
      name_();
      bar();
    };

    const show = async () => {
      matrix = index.matrices.find((each) => each.name === which.value);
      layer = Number(layers.querySelector(":checked").value);
      const wanted = `${which.value} ${layer}`;
      const found = await content(place, matrix.across ? "across" : layer);
      if (wanted !== `${which.value} ${Number(layers.querySelector(":checked").value)}`) return;
      layers.hidden = matrix.across;
      orders.parentElement.hidden = matrix.across;
      numbers = found.numbers[matrix.name];
      labels = matrix.across ? index.all_layers : Array.from({ length: index.experts }, (_, expert) => expert);
      order = labels.map((_, number) => number);
      orders.options[2].hidden = !found.load;
      if (!matrix.across && orders.value === "clustered") order = found.clustered;
      if (!matrix.across && orders.value === "load") order.sort((one, other) => found.load[other] - found.load[one] || one - other);
      if (at.row < 0 || Math.max(at.row, at.column) >= size()) Object.assign(at, largest());
      cells.setAttribute("aria-label", `${matrix.title}${matrix.across ? "" : `, layer ${layer}`}: ${word()} by ${matrix.columns || word()}`);
      help.textContent = `Arrow keys move the cross${led() ? ", Enter or a click shows the experts in the browser" : ""}.`;
      about.textContent = [
        orders.value === "clustered" && !matrix.across && matrix.name !== index.clustered.name ? `Clusters are those of the matrix “${index.clustered.title}”.` : "",
        matrix.level === null ? "" : `Lines through cells: not significant at a false discovery rate of ${plain(100 * matrix.level)} %.`,
        index.left_out && !matrix.across ? `${index.left_out} of ${index.all_layers.length} layers are left out here, for their size; the netCDF file has all.` : "",
      ].join(" ");
      draw();
      look();
    };
    const attempt = () => show().catch((problem) => fail(host, problem));

    // ---- What readers do ----

    const under = (event) => {
      const box = cells.getBoundingClientRect();
      const index_ = (share) => order[Math.min(size() - 1, Math.max(0, Math.floor(share * size())))];
      return { row: index_((event.clientY - box.top) / box.height), column: index_((event.clientX - box.left) / box.width) };
    };
    let pointer = "mouse";
    cells.addEventListener("pointerdown", (event) => (pointer = event.pointerType));
    cells.addEventListener("pointermove", (event) => {
      Object.assign(at, under(event));
      look();
    });
    cells.addEventListener("click", (event) => {
      Object.assign(at, under(event));
      look();
      if (led() && pointer === "mouse") location.href = go.href; // a finger has not seen what it points at
    });
    cells.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && led()) location.href = go.href;
      const [down_, right] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key] ?? [];
      if (down_ === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      at.row = order[order.indexOf(at.row) + down_] ?? at.row;
      at.column = order[order.indexOf(at.column) + right] ?? at.column;
      look();
    });
    buttons[0].addEventListener("click", () => copy(buttons[0], csv([at.row])));
    buttons[1].addEventListener("click", () => copy(buttons[1], csv(order)));
    for (const control of [which, orders, layers]) control.addEventListener("change", attempt);
    new ResizeObserver(() => labels && name_()).observe(cells);

    which.value = host.dataset.first;
    orders.value = "clustered";
    layers.querySelector("input").checked = true;
    host.setAttribute("role", "group");
    host.setAttribute("aria-label", `${name}, to explore`);
    return show();
  };

  // Where something is missing the picture is all there is, with a sentence that says why.
  const fail = (host, problem) => {
    host.closest("figure").classList.remove("explored");
    host.replaceChildren(make("p", { role: "alert" }, problem.message));
  };

  const open = async (host) => {
    const figure = host.closest("figure");
    try {
      const index = await content({ folder: host.dataset.folder, build: host.dataset.build }, "index");
      host.hidden = false;
      figure.classList.add("explored");
      figure.querySelector("img").loading = "eager"; // it is hidden, and there for print
      await explore(host, index);
    } catch (problem) {
      host.hidden = false;
      fail(host, problem);
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    const watch = new IntersectionObserver(
      (entries) => {
        for (const { isIntersecting, target } of entries) {
          if (!isIntersecting) continue;
          watch.unobserve(target);
          open(target.querySelector(".explore"));
        }
      },
      { rootMargin: "600px" },
    );
    document.querySelectorAll("figure:has(.explore)").forEach((figure) => watch.observe(figure));
  });
}
