"use strict";
// One search over pages, findings, figures, measures, terms, experts and their tokens, from every page. Its index is a
// script that is loaded when the reader first comes here; every text becomes a text node.
{
  const MOST = 6; // of a kind
  const ORDER = ["Expert", "Token", "Finding", "Figure", "Measure", "Term", "Page"];
  const EXPERT = /^\s*l(?:ayer)?\s*(\d+)[\s,.]*e(?:xperts?)?\s*(\d+)(?:\s*(?:,|x|×|and)\s*(\d+))?\s*$/i; // or two
  const TOKENS = 4; // experts named beside a token

  const form = document.querySelector(".search");
  const field = form.querySelector("input");
  const found = document.getElementById("found");

  const make = (name, ...children) => {
    const element = document.createElement(name);
    element.append(...children);
    return element;
  };
  const visible = (text) =>
    text.replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (mark) => `\\u${mark.codePointAt(0).toString(16).padStart(4, "0")}`);

  let index;
  const loaded = () =>
    (index ??= new Promise((done, failed) => {
      window.putSearch = done;
      const script = document.createElement("script");
      script.src = "search-index.js";
      script.addEventListener("error", failed);
      document.head.append(script);
    }));

  const several = ({ models }, model) => (models.length > 1 ? ` of ${model.label}` : "");
  const expertName = ([layer, expert]) => `Layer ${layer} expert ${expert}`;

  // Tokens that hold the query, with the experts that they belong to; the query itself first.
  const tokens = (all, query) =>
    all.models.flatMap((model) => {
      const experts = new Map();
      for (const each of model.experts)
        for (const token of each[3])
          if (token.toLowerCase().includes(query))
            experts.set(token, [...(experts.get(token) ?? []), `layer ${each[0]} expert ${each[1]}`]);
      const address = (token) =>
        model.browser
          ? `${model.browser}#${new URLSearchParams({ tab: "tokens", q: token })}`
          : `experts-${model.label}.html#${new URLSearchParams({ token })}`;
      const rows = [...experts].sort(
        ([one], [other]) =>
          (other.trim().toLowerCase() === query) - (one.trim().toLowerCase() === query) || one.length - other.length,
      );
      const shown = rows.map(([token, its]) => [
        `${visible(token).replaceAll(" ", "·")}${several(all, model)}`,
        `${its.slice(0, TOKENS).join(", ")}${its.length > TOKENS ? ` and ${its.length - TOKENS} more` : ""}`,
        address(token),
      ]);
      return [...shown.slice(0, MOST - 1), [`All tokens that contain “${visible(query)}”${several(all, model)}`, "", address(query)]];
    });

  const search = (all, text) => {
    const query = text.trim().toLowerCase();
    const words = query.split(/\s+/);
    const has = (...texts) => {
      const joined = texts.join(" ").toLowerCase();
      return words.every((word) => joined.includes(word));
    };
    const [, layer, expert, other] = EXPERT.exec(query) ?? [];
    const experts = all.models.flatMap((model) => {
      const its = model.experts.filter((each) =>
        layer === undefined
          ? has(expertName(each), each[2], model.label)
          : each[0] === Number(layer) && [expert, other].map(Number).includes(each[1]),
      );
      const hits = its.map((each) => [
        expertName(each) + several(all, model),
        `Serves ${each[2]}`,
        each[4],
        each[2].toLowerCase().startsWith(query), // what it serves most of all
      ]);
      const both = other !== undefined && its.length === 2 && model.browser;
      const href = `${model.browser}#tab=experts&l=${layer}&e=${expert},${other}`;
      return both ? [[`Layer ${layer} experts ${expert} and ${other}${several(all, model)}`, "Together", href, true], ...hits] : hits;
    });
    const kinds = new Map(ORDER.map((kind) => [kind, []]));
    kinds.get("Expert").push(...experts);
    kinds.get("Token").push(...tokens(all, query));
    for (const [kind, title, more, href] of all.entries) if (has(title, more)) kinds.get(kind).push([title, more, href, has(title)]);
    return [...kinds].map(([kind, rows]) => [kind, rows.sort((one, other) => (other[3] ?? 0) - (one[3] ?? 0))]);
  };

  const PLURAL = { Expert: "Experts", Token: "Tokens", Finding: "Findings", Figure: "Figures", Measure: "Measures", Term: "Terms", Page: "Pages" };
  const show = async () => {
    const text = field.value;
    found.hidden = !text.trim();
    if (found.hidden) return;
    let all;
    try {
      all = await loaded();
    } catch {
      found.replaceChildren(make("p", "The file search-index.js is missing or cannot be read: copy the whole report again."));
      return;
    }
    if (text !== field.value) return;
    const rows = search(all, text).filter(([, its]) => its.length);
    found.replaceChildren(
      ...rows.flatMap(([kind, its]) => {
        const head = make("h2", `${PLURAL[kind]}${its.length > MOST ? `: ${MOST} of ${its.length}` : ""}`);
        const list = its.slice(0, MOST).map(([title, more, href]) => {
          const link = make("a", make("strong", visible(title)), ...(more ? [make("span", visible(more).slice(0, 160))] : []));
          link.href = href;
          return make("li", link);
        });
        return [head, make("ul", ...list)];
      }),
    );
    if (!rows.length) found.append(make("p", "Nothing is found."));
  };

  const links = () => [...found.querySelectorAll("a")];
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    links()[0]?.click();
  });
  field.addEventListener("input", show);
  field.addEventListener("focus", show);
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      field.value = "";
      found.hidden = true;
      field.focus();
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || found.hidden) return;
    event.preventDefault();
    const all = [field, ...links()];
    all[Math.min(Math.max(all.indexOf(document.activeElement) + step, 0), all.length - 1)].focus();
  });
  found.addEventListener("click", (event) => {
    if (event.target.closest("a")) found.hidden = true;
  });
  document.addEventListener("pointerdown", (event) => form.contains(event.target) || (found.hidden = true));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest?.("input, select, textarea");
    if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    field.focus();
  });
  form.hidden = false;
}
