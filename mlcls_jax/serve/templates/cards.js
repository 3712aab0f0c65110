// An image with the bars of its classes, and a small one with the classes that are present.
const FIRST = 5;

function imageOf(item, parent) {
  item.url ??= URL.createObjectURL(item.file);
  const image = make("img", "", parent);
  image.alt = item.name;
  image.loading = "lazy";
  image.onerror = () => {
    const text = make("span", "none", null, "The browser cannot show this format.");
    image.replaceWith(text);
  };
  image.src = item.url;
}

// Returns an element and what brings it up to date.
function makeCard(item, id) {
  const element = make("article", "card image"), frame = make("div", "frame", element);
  imageOf(item, frame);
  const side = make("div", "side", element);
  make("h2", "", side, item.name).id = id;
  element.setAttribute("aria-labelledby", id);
  const state = make("p", "soft", side, "…"), bars = make("div", "bars", side);
  const more = make("button", "more", side), problem = make("p", "error", side);
  problem.setAttribute("role", "alert");
  more.type = "button";
  more.hidden = true;
  const view = {item, frame, bars, problem, rows: new Map(), all: false};
  more.onclick = () => {
    view.all = true;
    refresh();
  };
  function refresh() {
    if (item.state === "waiting") return;
    element.dataset.done = "";
    if (item.state === "failed") {
      state.className = "error";
      state.textContent = item.error;
      return;
    }
    const present = item.order.filter(isPresent).length;
    state.textContent = present ? "" : "No class reaches its threshold.";
    const first = Math.max(FIRST, item.order.filter((one) => one.present).length);
    item.order.forEach((one, place) => {
      const isShown = view.all || place < first || isPresent(one) || isChanged(one);
      if (isShown && !view.rows.has(one)) view.rows.set(one, makeBar(one, view));
      if (view.rows.has(one)) showBar(one, view.rows.get(one));
    });
    const inOrder = item.order.filter((one) => view.rows.has(one)).map((one) => view.rows.get(one));
    if (inOrder.some((row, place) => bars.children[place] !== row)) bars.append(...inOrder);
    more.hidden = view.rows.size === item.order.length;
    more.textContent = `Show all ${item.order.length} classes`;
  }
  refresh();
  return {element, refresh};
}

function makeBar(one, view) {
  const row = make("button", "bar");
  row.type = "button";
  row.setAttribute("aria-pressed", "false");
  const name = make("span", "name", row, one.name);
  make("small", "", name);
  const track = make("span", "track", row);
  make("span", "fill", track).style.width = `${100 * one.probability}%`;
  make("span", "mark", track);
  make("span", "share", row, `${(100 * one.probability).toFixed(0)} %`);
  make("span", "hidden", row);
  row.onclick = () => explain(one, row, view);
  return row;
}

function showBar(one, row) {
  const threshold = thresholdOf(one), present = isPresent(one);
  row.classList.toggle("present", present);
  row.title = `${one.name}: ${one.probability.toFixed(4)}, threshold ${threshold.toFixed(4)}`;
  row.querySelector(".mark").style.left = `calc(${100 * threshold}% - 1px)`;
  const tag = row.querySelector("small");
  tag.textContent = isChanged(one) ? present ? "now present" : "no longer present" : "";
  tag.className = isChanged(one) ? "changed" : "";
  row.querySelector(".hidden").textContent = present ? ", present" : ", not present";
}

// Shows the evidence for a class over the image; a second click hides it.
async function explain(one, row, {item, frame, bars, problem}) {
  const again = row.getAttribute("aria-pressed") === "true";
  for (const other of bars.children) other.setAttribute("aria-pressed", "false");
  frame.querySelector("canvas")?.remove();
  problem.textContent = "";
  if (again) return;
  row.setAttribute("aria-pressed", "true");
  try {
    const answer = await ask("/api/explain", {image: item.file, class_name: one.name});
    if (row.getAttribute("aria-pressed") !== "true") return;
    overlay(answer, frame);
    frame.scrollIntoView({block: "nearest", behavior: "smooth"});
  } catch (error) {
    problem.textContent = error.message;
  }
}

function makeTile(item, open) {
  const element = make("button", "tile");
  element.type = "button";
  element.onclick = () => open(item);
  imageOf(item, element);
  make("span", "file", element, item.name).title = item.name;
  const chips = make("span", "chips", element);
  function refresh() {
    if (item.state === "waiting") return;
    element.dataset.done = "";
    chips.replaceChildren();
    if (item.state === "failed") {
      make("span", "error", chips, item.error);
      return;
    }
    for (const one of item.order) {
      if (!isPresent(one) && !isChanged(one)) continue;
      const chip = make("span", isChanged(one) ? "chip changed" : "chip", chips);
      make(isPresent(one) ? "span" : "s", "", chip, one.name);
    }
    if (!chips.children.length) make("span", "soft", chips, "no class");
  }
  refresh();
  return {element, refresh};
}
