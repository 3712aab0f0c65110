// A click on a header sorts its table. Numbers sort by value, and empty cells come last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.parentElement, column = header.cellIndex;
    const body = header.closest("table").tBodies[0];
    // Numbers start with the highest, names with the first; the next click reverses the order.
    const down = header.ariaSort ? header.ariaSort === "ascending" : column > 0;
    const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === "" || y === "") return (x === "") - (y === "");
      const order = column ? x - y : x.localeCompare(y);
      return down ? -order : order;
    };
    const rows = [...body.rows].sort(compare);
    for (const other of header.parentElement.cells) other.ariaSort = null;
    header.ariaSort = down ? "descending" : "ascending";
    body.append(...rows);
  });
}

// A click on an image enlarges it, and another one makes it small again.
for (const button of document.querySelectorAll(".zoom")) {
  button.addEventListener("click", () => button.parentElement.classList.toggle("large"));
}

// The choice of a class hides the images that have nothing to do with it.
const choice = document.getElementById("class");
choice?.addEventListener("change", () => {
  for (const figure of document.querySelectorAll("figure")) {
    figure.hidden = choice.value !== "" && !JSON.parse(figure.dataset.classes).includes(choice.value);
  }
  for (const section of document.querySelectorAll("section")) {
    section.hidden = !section.querySelector("figure:not([hidden])");
  }
});
