// The slider of an episode, and the keys of the pages. Pages work without it.
"use strict";

(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The slider: what comes later is faint, the node that speaks is marked.
  const stepper = document.querySelector(".stepper");
  if (stepper) {
    const range = stepper.querySelector("input");
    const told = stepper.querySelector("output");
    const names = range.dataset.names.split("\n");
    const show = () => {
      const step = Number(range.value);
      const ended = step === names.length;
      const nth = ended ? "all " + step + " steps" : step === 0 ? "start" : step + ": " + names[step - 1];
      told.textContent = nth;
      range.setAttribute("aria-valuetext", nth);
      for (const turn of all("[data-stop]")) {
        turn.classList.toggle("later", Number(turn.dataset.stop) >= step);
        turn.classList.toggle("now", !ended && Number(turn.dataset.stop) === step - 1);
      }
      for (const mark of all("[data-stops]")) {
        const stops = mark.dataset.stops.split(" ").map(Number);
        mark.classList.toggle("taken", stops.some((stop) => stop < step));
        mark.classList.toggle("now", !ended && stops.includes(step - 1));
      }
    };
    range.addEventListener("input", show);
    for (const button of all("button", stepper)) {
      button.addEventListener("click", () => {
        range.value = Number(range.value) + Number(button.dataset.by);
        show();
        document.querySelector(".turn.now")?.scrollIntoView({ block: "nearest" });
      });
    }
    stepper.hidden = false;
  }

  // How long an answer took: from the moment the case was shown.
  const shown = performance.now();
  document.addEventListener("submit", (event) => {
    const seconds = event.target.querySelector("input[name=seconds]");
    if (seconds) seconds.value = ((performance.now() - shown) / 1000).toFixed(1);
  });

  // Keys: a labelling answer is one keystroke; j and k walk a list; / goes to the search.
  let at = -1;
  document.addEventListener("keydown", (event) => {
    const field = event.target.closest("input, textarea, select");
    if (field) {
      if (event.key === "Escape") field.blur();
      if (event.key === "Enter" && event.ctrlKey && field.form) field.form.requestSubmit();
      if (event.key === "Enter" && field.name === "note") event.preventDefault();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const wanted = all("[data-key]").find((element) => element.dataset.key === event.key);
    if (wanted) {
      event.preventDefault();
      if (wanted.matches("button")) wanted.click();
      else wanted.focus();
      return;
    }
    const search = document.getElementById("q");
    if (event.key === "/" && search) {
      event.preventDefault();
      search.focus();
      return;
    }
    const links = all(".row .what, .run h2 a");
    if ("jk".includes(event.key) && links.length) {
      at = Math.max(0, Math.min(links.length - 1, at + (event.key === "j" ? 1 : -1)));
      links[at].focus();
    }
    if (stepper && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
      stepper.querySelector(event.key === "ArrowLeft" ? "[data-by='-1']" : "[data-by='1']").click();
    }
  });
})();
