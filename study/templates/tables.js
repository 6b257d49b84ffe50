// Tables of several rows sort by any column, and show the rows that hold some words.
for (const table of document.querySelectorAll(".table table")) {
  const head = table.tHead, body = table.tBodies[0];
  // One of names and values has an order of its own.
  if (!head || body.rows.length < 6 || body.rows[0].cells[0].tagName === "TH") continue;
  const number = text => /^[-+]?[\d,.]+/.test(text) ? parseFloat(text.replaceAll(",", "")) : NaN;
  const rank = (one, other) => {
    const [left, right] = [number(one), number(other)];
    if (Number.isNaN(left) !== Number.isNaN(right)) return Number.isNaN(left) ? 1 : -1;
    return Number.isNaN(left) ? one.localeCompare(other) : left - right;
  };
  [...head.rows[0].cells].forEach((cell, place) => {
    const button = document.createElement("button");
    button.append(...cell.childNodes);
    cell.append(button);
    button.addEventListener("click", () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      for (const other of head.rows[0].cells) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = row => row.cells[place].textContent.trim();
      // What has no number comes last either way.
      const rows = [...body.rows].sort((one, other) => {
        const found = rank(text(one), text(other));
        const empty = Number.isNaN(number(text(one))) !== Number.isNaN(number(text(other)));
        return down && !empty ? -found : found;
      });
      body.append(...rows);
    });
  });
  const label = document.createElement("label"), input = document.createElement("input"), shown = document.createElement("span");
  input.type = "search";
  label.className = "filter";
  label.append("Rows with ", input, " ", shown);
  shown.setAttribute("role", "status");
  table.parentElement.before(label);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) row.hidden = !words.every(word => row.textContent.toLowerCase().includes(word));
    const left = [...body.rows].filter(row => !row.hidden).length;
    shown.textContent = words.length ? `${left} of ${body.rows.length}` : "";
  });
}
