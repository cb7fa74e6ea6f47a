
"use strict";
// Heads of the table become buttons that sort it. A number sorts by the value in
// data-sort, everything else as a reader would: pc-9 before pc-10.
const collator = new Intl.Collator("en", {numeric: true, sensitivity: "base"});
const value = (row, column) => {
  const cell = row.cells[column];
  return cell.dataset.sort === undefined ? cell.textContent.trim() : Number(cell.dataset.sort);
};
const compare = (a, b) => typeof a === "number" ? a - b : collator.compare(a, b);
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      const sign = down ? -1 : 1;
      const rows = Array.from(table.tBodies[0].rows, row => ({row, key: value(row, column)}));
      rows.sort((a, b) => sign * compare(a.key, b.key));
      table.tBodies[0].replaceChildren(...rows.map(entry => entry.row));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
    });
  });
}
