"use strict";
// The pages are complete without this file. It adds a choice of theme, buttons that copy commands, the date and the times
// of the run, arrow keys in the picture of all experts, opens a finding that the address names, and all <details> for
// printing. It is a classic script: browsers refuse modules from a double-clicked file.
{
  const root = document.documentElement;
  const key = "gatebook-theme";
  const themes = ["auto", "light", "dark"];

  // Storage may be forbidden for local files; the choice then lasts for one page.
  const storage = (use) => {
    try {
      return use(window.localStorage);
    } catch {
      return null;
    }
  };

  const stored = storage((store) => store.getItem(key));
  root.dataset.theme = themes.includes(stored) ? stored : "auto";

  const addThemeChoice = () => {
    const choice = document.getElementById("theme");
    choice.value = root.dataset.theme;
    choice.addEventListener("change", () => {
      root.dataset.theme = choice.value;
      storage((store) => store.setItem(key, choice.value));
    });
    choice.parentElement.hidden = false;
  };

  const addCopyButton = (command) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "Copy";
    button.setAttribute("aria-live", "polite");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command.textContent);
        button.textContent = "Copied";
      } catch {
        window.getSelection().selectAllChildren(command);
        button.textContent = "Selected";
      }
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
    command.closest(".scroll").before(button);
  };

  // Called by run.js, which tells how the jobs of this run went.
  window.showRun = ({ facts, rules }) => {
    document.querySelectorAll("[data-run]").forEach((fact) => {
      fact.textContent = facts[fact.dataset.run];
      fact.parentElement.hidden = !fact.textContent;
    });
    for (const [rule, jobs, time] of rules) {
      const row = document.getElementById(`rule-${rule}`);
      if (!row) continue;
      row.querySelector(".jobs").textContent = jobs;
      row.querySelector(".time").textContent = time;
    }
  };

  // A finding that the address names opens, and so does every <details> around what it names.
  const openTarget = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    for (let each = target?.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
    target?.scrollIntoView();
  };

  // One tab stop for all tiles of a picture; arrows go along a layer and between layers.
  const addArrowKeys = (tiles) => {
    const rows = [...tiles.children].map((row) => [...row.querySelectorAll("a")]);
    const told = tiles.parentElement.querySelector(".told");
    const all = rows.flat();
    all.forEach((tile, index) => (tile.tabIndex = index ? -1 : 0));
    const tell = ({ target }) => target.title && (told.textContent = target.title);
    tiles.addEventListener("pointerover", tell);
    tiles.addEventListener("focusin", (event) => {
      all.forEach((tile) => (tile.tabIndex = tile === event.target ? 0 : -1));
      tell(event);
    });
    tiles.addEventListener("keydown", (event) => {
      const row = rows.findIndex((each) => each.includes(event.target));
      const column = rows[row]?.indexOf(event.target);
      const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      const [down, right] = steps[event.key] ?? [];
      const next = down === undefined ? null : rows[row + down]?.[column + right];
      if (!next) return;
      event.preventDefault();
      next.focus();
    });
  };

  document.addEventListener("DOMContentLoaded", () => {
    addThemeChoice();
    const here = document.querySelector(".pages [aria-current]");
    here.closest(".pages").scrollLeft = here.offsetLeft - 20;
    document.querySelectorAll("pre.command").forEach(addCopyButton);
    document.querySelectorAll(".tiles").forEach(addArrowKeys);
    if (document.querySelector(".finding")) {
      openTarget();
      window.addEventListener("hashchange", openTarget);
    }
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => (details.open = true));
  });
  window.addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
}
