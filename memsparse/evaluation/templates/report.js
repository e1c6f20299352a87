"use strict";
for (const form of document.querySelectorAll("form.filter")) {
  const entries = [...form.parentElement.querySelectorAll("details.entry")];
  const { system, text, wrong } = form.elements;
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const entry of entries) {
      const body = words.length ? entry.textContent.toLowerCase() : "";
      entry.hidden =
        (system.value !== "" && entry.dataset.system !== system.value) ||
        (wrong.checked && entry.dataset.state !== "wrong") ||
        !words.every((word) => body.includes(word));
      shown += entry.hidden ? 0 : 1;
    }
    form.querySelector("output").value = `${shown} of ${entries.length}`;
  };
  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
}
