for (const heading of document.querySelectorAll("table.jobs thead th")) {
  const button = document.createElement("button");
  button.textContent = heading.textContent;
  heading.replaceChildren(button);
  button.addEventListener("click", () => {
    const falls = heading.ariaSort === "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.ariaSort = falls ? "descending" : "ascending";
    const body = heading.closest("table").tBodies[0];
    const key = row => row.cells[heading.cellIndex].dataset.key ?? row.cells[heading.cellIndex].textContent;
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    const rows = [...body.rows].sort((a, b) => compare(key(a), key(b)));
    body.append(...(falls ? rows.reverse() : rows));
  });
}
