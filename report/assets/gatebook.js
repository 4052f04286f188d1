"use strict";
// The pages are complete without this file. It adds a choice of theme, buttons that copy commands and the times of the
// run, and opens all <details> for printing. It is a classic script: browsers refuse modules from a double-clicked file.
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
      fact.querySelector("dd").textContent = facts[fact.dataset.run];
      fact.hidden = false;
    });
    for (const [rule, jobs, time] of rules) {
      const row = document.getElementById(`rule-${rule}`);
      if (!row) continue;
      row.querySelector(".jobs").textContent = jobs;
      row.querySelector(".time").textContent = time;
    }
  };

  document.addEventListener("DOMContentLoaded", () => {
    addThemeChoice();
    const here = document.querySelector(".pages [aria-current]");
    here.closest(".pages").scrollLeft = here.offsetLeft - 20;
    document.querySelectorAll("pre.command").forEach(addCopyButton);
  });

  let opened = [];
  window.addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => (details.open = true));
  });
  window.addEventListener("afterprint", () => opened.forEach((details) => (details.open = false)));
}
