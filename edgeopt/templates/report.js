// What the page does beyond being read: switch variants, find, enlarge, choose light or dark. It works without, too.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const SHORT = 12;
  let variant = one("#variant")?.value ?? "", kind = "", words = "";

  const hide = (element, hidden) => element.toggleAttribute("hidden", hidden);

  function showLayers() {
    const layers = Object.fromEntries(all("input[data-layer]").map((box) => [box.dataset.layer, box.checked]));
    for (const group of all("g[data-layer]"))
      hide(group, !layers[group.dataset.layer] || (group.dataset.variant ?? variant) !== variant);
  }

  function showPictures() {
    const shots = all(".shot");
    for (const shot of shots) {
      const kinds = shot.dataset.kinds.split(" ");
      const wanted = kinds.some((each) => (kind ? each === `${variant}:${kind}` : each.startsWith(`${variant}:`)));
      hide(shot, words ? !shot.dataset.find.includes(words) : !wanted);
    }
    const seen = shots.filter((shot) => !shot.hidden).length;
    if (shots.length) hide(one("#nothing"), seen > 0);
    return seen;
  }

  function showRows() {
    for (const row of all("tr[data-find]")) hide(row, !row.dataset.find.includes(words));
    for (const table of all("table.long")) {
      table.classList.toggle("short", !table.dataset.whole && !words);
      const button = table.parentElement.nextElementSibling;
      if (button) hide(button, Boolean(table.dataset.whole || words));
    }
  }

  function show() {
    for (const element of all("[data-variant]:not(g)")) hide(element, element.dataset.variant !== variant);
    showLayers();
    showRows();
    const pictures = showPictures();
    const rows = all("#classes tr[data-find]").filter((row) => !row.hidden && !row.closest("[hidden]")).length;
    one("#found").textContent = words ? `${rows} ${rows === 1 ? "class" : "classes"}, ${pictures} ` +
      (pictures === 1 ? "picture" : "pictures") : "";
  }

  for (const table of all("table.long")) {
    const rows = all("tbody tr", table);
    rows.slice(SHORT).forEach((row) => row.classList.add("beyond"));
    if (rows.length <= SHORT) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Show all ${rows.length}`;
    button.addEventListener("click", () => { table.dataset.whole = "1"; show(); });
    table.parentElement.after(button);
  }

  one("#variant")?.addEventListener("change", (event) => { variant = event.target.value; show(); });
  one("#search").addEventListener("input", (event) => { words = event.target.value.trim().toLowerCase(); show(); });
  all("input[data-layer]").forEach((box) => box.addEventListener("change", showLayers));
  all("button[data-kind]").forEach((button, _, buttons) => button.addEventListener("click", () => {
    kind = button.dataset.kind;
    buttons.forEach((each) => each.setAttribute("aria-pressed", String(each === button)));
    show();
  }));

  // The enlarged picture: arrows go to the one before or after, Escape closes.
  const dialog = one("#enlarged");
  let open = null;
  const enlarge = (shot) => {
    if (!shot) return;
    open = shot;
    const copies = [shot.querySelector("svg"), shot.querySelector("figcaption")].map((part) => part.cloneNode(true));
    copies[0].querySelector("image").removeAttribute("id");
    dialog.querySelector("div").replaceChildren(...copies);
    if (!dialog.open) dialog.showModal();
  };
  all(".zoom").forEach((button) => button.addEventListener("click", () => enlarge(button.closest(".shot"))));
  dialog?.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest(".close")) dialog.close();
  });
  dialog?.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const seen = all(".shot").filter((shot) => !shot.hidden);
    enlarge(seen[seen.indexOf(open) + step]);
  });

  const theme = one("#theme"), order = ["auto", "light", "dark"];
  theme.addEventListener("click", () => {
    const root = document.documentElement, next = order[(order.indexOf(root.dataset.theme ?? "auto") + 1) % 3];
    root.dataset.theme = next;
    theme.textContent = `Theme: ${next}`;
  });

  // On paper nothing can be opened: print what is folded, but for lists of hashes, and only for the time of printing.
  addEventListener("beforeprint", () => all("main section:not(#made) details:not([open])").forEach((each) => {
    each.open = true;
    each.dataset.folded = "1";
  }));
  addEventListener("afterprint", () => all("details[data-folded]").forEach((each) => { each.open = false; }));
  if (matchMedia("(max-width: 1099px)").matches) one(".contents details").open = false;
  show();
})();
