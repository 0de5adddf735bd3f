"use strict";
(() => {
  const button = document.getElementById("theme"), root = document.documentElement;
  const next = { auto: "dark", dark: "light", light: "auto" };
  const say = { auto: "as the system has them", dark: "dark", light: "light" };
  const kept = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("sgt-theme", value);
      return localStorage.getItem("sgt-theme");
    } catch {
      return null;
    }
  };
  const show = (theme) => {
    root.dataset.theme = theme;
    button.textContent = theme;
    button.setAttribute("aria-label", `Colours: ${say[theme]}`);
  };
  show(next[kept()] ? kept() : "auto");
  button.addEventListener("click", () => {
    const theme = next[root.dataset.theme];
    show(theme);
    kept(theme);
  });

  const value = (row, column) => row.cells[column].textContent.trim();
  const number = (text) => (/^[<+\-.]?[\d.]/.test(text) ? parseFloat(text.replace(/[<,]/g, "")) : NaN);
  const compare = (one, other) => {
    const [a, b] = [number(one), number(other)];
    if (!Number.isNaN(a) && !Number.isNaN(b)) return a - b;
    return one.localeCompare(other);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.tagName !== "TH") return;
      const sorter = document.createElement("button");
      sorter.type = "button";
      sorter.className = "sort";
      sorter.textContent = head.textContent;
      head.textContent = "";
      head.append(sorter);
      sorter.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "descending";
        for (const each of heads) each.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "descending" : "ascending");
        const rows = [...body.rows].filter((row) => row.cells.length > column);
        rows.sort((one, other) => (up ? -1 : 1) * compare(value(one, column), value(other, column)));
        body.prepend(...rows);
      });
    });
  }
  if (!document.getElementById("rollouts")) root.dataset.ready = "yes";
})();
