const box = document.getElementById("row-filter");
const rows = [...document.querySelectorAll("#wrong .rows > li, #suspects .rows > li, #equal .rows > li")];
box.hidden = false;
box.querySelector("input").addEventListener("input", event => {
  const wanted = event.target.value.trim().toLowerCase();
  for (const row of rows) {
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
    if (wanted && !row.hidden) for (let each = row; (each = each.parentNode.closest("details")); ) each.open = true;
  }
  const found = rows.filter(row => !row.hidden).length;
  box.querySelector("output").textContent = wanted ? `${found} of ${rows.length} rows` : "";
});
