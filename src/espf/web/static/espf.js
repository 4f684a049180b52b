// What pages need beyond htmx: questions before what cannot be undone, menus that close, "all".
addEventListener("submit", (event) => {
  const ask = event.submitter?.dataset.ask || event.target.dataset.ask;
  if (ask && !confirm(ask)) event.preventDefault();
});

addEventListener("click", (event) => {
  for (const drop of document.querySelectorAll("details.drop[open]")) {
    if (!drop.contains(event.target)) drop.open = false;
  }
  const opener = event.target.closest("[data-dialog]");
  if (opener) document.getElementById(opener.dataset.dialog).showModal();
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
  // What is chosen in a dialog goes into the field that the dialog is for.
  const chosen = event.target.closest("[data-fill]");
  if (chosen) {
    const dialog = chosen.closest("dialog");
    const field = document.getElementById(dialog.dataset.for);
    field.value = chosen.dataset.fill;
    dialog.close();
    field.focus();
  }
  // What htmx draws here is to be there after a reload, too.
  const here = event.target.closest("a[data-here]");
  if (here && !event.ctrlKey && !event.metaKey && !event.shiftKey) history.replaceState(null, "", here.href);
  const copier = event.target.closest("[data-copy]");
  if (copier) navigator.clipboard.writeText(document.getElementById(copier.dataset.copy).textContent);
});

// A box that stands for all boxes of one name in its form; a field that sends its form at once.
addEventListener("change", (event) => {
  const name = event.target.dataset.all;
  if (name) {
    for (const box of event.target.form.querySelectorAll(`input[name="${CSS.escape(name)}"]`)) {
      box.checked = event.target.checked;
    }
  }
  if (event.target.hasAttribute("data-submit")) event.target.form.requestSubmit();
  if (event.target.form) showWhatCounts(event.target.form);
});

// Fields that do nothing with what another one says are out of sight; they are sent all the same.
function showWhatCounts(form) {
  for (const field of form.querySelectorAll("[data-with]")) {
    const other = form.querySelector(`[name="${CSS.escape(field.dataset.with)}"]:not([type="hidden"])`);
    const says = other.type === "checkbox" ? (other.checked ? "on" : "off") : other.value || other.dataset.default;
    field.hidden = says !== field.dataset.withValue && !field.querySelector(".is-invalid");
  }
}
for (const form of document.forms) showWhatCounts(form);

addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    for (const drop of document.querySelectorAll("details.drop[open]")) drop.open = false;
  }
  // Up and down go along what a dialog offers, from its search on.
  const dialog = event.target.closest("dialog.pick");
  if (dialog && (event.key === "ArrowDown" || event.key === "ArrowUp")) {
    const stops = [dialog.querySelector('input[type="search"]'), ...dialog.querySelectorAll("[data-fill]")];
    const next = stops[stops.indexOf(event.target) + (event.key === "ArrowDown" ? 1 : -1)];
    if (next) next.focus();
    event.preventDefault();
  }
  // "/" goes to the search field of the page, as in many consoles.
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey) {
    const field = document.querySelector('input[type="search"], .list-search input');
    if (field) {
      event.preventDefault();
      field.focus();
    }
  }
});
