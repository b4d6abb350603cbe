// Sorting and filtering of the table of scans.
(function () {
  "use strict";

  const table = document.querySelector("table.cases");
  if (!table) { return; }
  const body = table.tBodies[0];
  const buttons = Array.from(table.querySelectorAll("th button"));

  function keyOf(row, column) {
    const text = row.cells[column].dataset.key;
    return row.cells[column].classList.contains("number") ? Number(text) : text;
  }

  buttons.forEach(function (button) {
    const head = button.closest("th");
    button.addEventListener("click", function () {
      const up = head.getAttribute("aria-sort") !== "ascending";
      buttons.forEach(function (other) { other.closest("th").removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const column = head.cellIndex;
      const rows = Array.from(body.rows).sort(function (a, b) {
        const one = keyOf(a, column);
        const two = keyOf(b, column);
        const order = typeof one === "number" ? one - two : one.localeCompare(two, "en", { numeric: true });
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });

  const filter = document.getElementById("filter");
  filter.addEventListener("input", function () {
    const wanted = filter.value.trim().toLowerCase();
    Array.from(body.rows).forEach(function (row) {
      row.hidden = !row.cells[1].dataset.key.toLowerCase().includes(wanted);
    });
  });
  filter.closest("label").hidden = false;
})();
