"use strict";
// What a figure tells where a reader points, or goes with the arrow keys: its estimates, with their intervals. A click on
// an expert leads to its page. Places are thousandths of the figure's width and height: [x, y, sentence, layer, expert].
{
  const FAR = 40; // pixels from a place, beyond which nothing is told

  const make = (element, className) => {
    const made = document.createElement(element);
    made.className = className;
    made.hidden = true;
    return made;
  };

  const addTold = (script) => {
    const places = JSON.parse(script.textContent);
    const frame = script.parentElement.querySelector(".frame");
    const image = frame.querySelector("img");
    const [mark, told] = [make("span", "mark"), make("output", "place")];
    frame.append(mark, told);
    let now = null;

    const left = (place) => image.offsetLeft + (place[0] * image.clientWidth) / 1000;
    const top = (place) => image.offsetTop + (place[1] * image.clientHeight) / 1000;

    const hide = () => {
      now = null;
      mark.hidden = told.hidden = true;
      frame.classList.remove("leads");
    };

    const tell = (place) => {
      if (place === now) return;
      now = place;
      mark.hidden = told.hidden = false;
      told.textContent = place[2];
      mark.style.translate = `${left(place)}px ${top(place)}px`;
      // Beside its place, on the side where there is room, and within the figure.
      const right = left(place) > image.clientWidth / 2;
      const x = left(place) + (right ? -12 - told.offsetWidth : 12);
      const most = frame.scrollLeft + frame.clientWidth - told.offsetWidth;
      const y = top(place) - told.offsetHeight - 8;
      told.style.translate = `${Math.max(0, Math.min(x, most))}px ${y < 0 ? top(place) + 10 : y}px`;
      frame.classList.toggle("leads", place.length > 3 && "browser" in script.dataset);
    };

    const nearest = (event) => {
      const box = image.getBoundingClientRect();
      const distance = (place) =>
        Math.hypot((place[0] / 1000) * box.width - event.clientX + box.left, (place[1] / 1000) * box.height - event.clientY + box.top);
      const found = places.reduce((best, place) => (distance(place) < distance(best) ? place : best));
      return distance(found) <= FAR ? found : null;
    };

    frame.addEventListener("pointermove", (event) => {
      const place = nearest(event);
      place ? tell(place) : hide();
    });
    frame.addEventListener("pointerleave", hide);
    frame.addEventListener("blur", hide);
    const go = () => {
      if (frame.classList.contains("leads")) location.href = `${script.dataset.browser}#tab=experts&l=${now[3]}&e=${now[4]}`;
    };
    frame.addEventListener("click", go);
    frame.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === "Escape") hide();
      if (event.key === "Enter") go();
      if (!step) return;
      event.preventDefault();
      const at = now ? places.indexOf(now) + step : 0;
      tell(places[Math.max(0, Math.min(at, places.length - 1))]);
      mark.scrollIntoView({ block: "nearest", inline: "nearest" });
    });
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll("script.places").forEach(addTold));
}
