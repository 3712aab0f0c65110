const TRIES = 20, AT_ONCE = 6, LARGE = 6, MORE = 24;
let model = null, items = [], queue = [], running = 0, skipped = 0, began = 0, ofBatch = 0;
let most = MORE, opened = null, isDue = false, isTold = 0;

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function ask(path, fields) {
  for (let left = TRIES; ; left--) {
    const body = new FormData();
    for (const [name, value] of Object.entries(fields)) body.append(name, value);
    const answer = await send(path, {method: "POST", body});
    if (!answer) throw new Error("The server does not answer.");
    if (answer.status === 503 && left) {
      await wait(Number(answer.headers.get("Retry-After")) || 1);
      continue;
    }
    const text = await answer.json().catch(() => ({detail: `status ${answer.status}`}));
    if (!answer.ok) throw new Error(text.detail);
    return text;
  }
}

async function predict(item) {
  try {
    if (model && item.file.size > model.image_bytes) {
      throw new Error(`an image may have at most ${model.image_bytes / 2 ** 20} MB`);
    }
    const [prediction] = await ask("/api/predict", {images: item.file});
    item.classes = prediction.classes;
    item.order = [...prediction.classes].sort(
      (a, b) => b.present - a.present || b.probability - a.probability);
    item.state = "done";
  } catch (error) {
    item.error = error.message;
    item.state = "failed";
  }
  update();
}

// Some at a time, so that this page does not fill the server's queue.
async function work() {
  running++;
  while (queue.length) await predict(queue.shift());
  running--;
  update();
}

function add({found, skipped: others}) {
  if (!running) [began, ofBatch] = [performance.now(), 0];
  skipped += others;
  ofBatch += found.length;
  const added = found.map((one) => ({...one, state: "waiting"}));
  items = [...added, ...items];
  queue.push(...added);
  byId("work").hidden = !items.length && !skipped;
  update();
  for (let more = Math.min(AT_ONCE - running, added.length); more > 0; more--) work();
}

const filters = {
  "": () => true,
  none: (item) => item.state === "done" && !item.classes.some(isPresent),
  changed: (item) => item.state === "done" && item.classes.some(isChanged),
  failed: (item) => item.state === "failed",
};

function filtered() {
  const value = byId("filter").value;
  if (value in filters) return items.filter(filters[value]);
  const index = Number(value.slice(1));
  return items.filter((item) => item.state === "done" && isPresent(item.classes[index]));
}

function makeFilters() {
  const add = (value) => make("option", "", byId("filter")).value = value;
  add("");
  model.classes.forEach((_, index) => add(`c${index}`));
  for (const value of ["none", "changed", "failed"]) add(value);
}

function showFilters() {
  const texts = {"": "all images", none: "without any class", changed: "changed by a threshold",
    failed: "failed"};
  for (const option of byId("filter").options) {
    const own = option.value in filters;
    const index = Number(option.value.slice(1));
    const is = own ? filters[option.value]
      : (item) => item.state === "done" && isPresent(item.classes[index]);
    const text = own ? texts[option.value] : model.classes[index].name;
    option.textContent = `${text} (${items.filter(is).length})`;
  }
}

// Brings the page up to date, once for all that happens before the next frame.
function update() {
  if (isDue) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const done = items.filter((item) => item.state === "done");
    for (const slider of sliders) showSlider(slider, done);
    showState(done.length);
    showFilters();
    showCards();
    opened?.refresh();
    byId("reset").disabled = !moved.size;
    for (const id of ["probabilities", "labels"]) byId(id).disabled = !done.length || running > 0;
  });
}

function showState(done) {
  const failed = items.filter((item) => item.state === "failed").length;
  const left = items.length - done - failed, bar = byId("progress");
  bar.max = items.length || 1;
  bar.value = done + failed;
  bar.hidden = byId("stop").hidden = !left;
  const now = performance.now();
  if (left && now - isTold < 1500) return;  // a screen reader reads each text
  isTold = left ? now : 0;
  const finished = ofBatch - left;
  const seconds = Math.ceil((now - began) / 1000 / finished * left);
  const parts = [left ? `${done + failed} of ${items.length} images` : `${done} images done`];
  if (failed) parts.push(`${failed} failed`);
  if (skipped) parts.push(`${skipped} other files left out`);
  if (left && finished > 2 && seconds > 2) parts.push(`about ${seconds} s left`);
  byId("state").textContent = parts.join(", ");
}

function showCards() {
  const isLarge = items.length <= LARGE, list = filtered(), cards = byId("cards");
  cards.className = isLarge ? "" : "tiles";
  const views = list.slice(0, most).map((item) => {
    if (item.view?.isLarge !== isLarge) {
      item.number ??= nextNumber();
      item.view = isLarge ? makeCard(item, `image-${item.number}`) : makeTile(item, open);
      item.view.isLarge = isLarge;
    } else {
      item.view.refresh();
    }
    return item.view.element;
  });
  const isSame = views.length === cards.children.length &&
    views.every((element, place) => cards.children[place] === element);
  if (!isSame) cards.replaceChildren(...views);
  byId("next").hidden = list.length <= most;
  byId("filters").hidden = isLarge;
  byId("shown").textContent = views.length < list.length ? `${views.length} of ${list.length}` : "";
}

let numbers = 0;
const nextNumber = () => ++numbers;

// Shows one image of the list with all its bars.
function open(item) {
  const view = makeCard(item, "dialog-name"), list = filtered(), place = list.indexOf(item);
  opened = {item, refresh: view.refresh};
  view.element.classList.remove("card");
  byId("dialog-image").replaceChildren(view.element);
  const to = (id, next) => {
    byId(id).disabled = place < 0 || !next;
    byId(id).onclick = () => open(next);
  };
  to("before", list[place - 1]);
  to("after", list[place + 1]);
  if (!byId("dialog").open) byId("dialog").showModal();
  if (document.activeElement === document.body) byId("close").focus();
}

function table(value) {
  const done = items.filter((item) => item.state === "done");
  const rows = done.map((item) => [item.name, item.classes.map(value)]);
  return csvText(done[0].classes.map(({name}) => name), rows);
}

byId("probabilities").onclick = () =>
  download("probabilities.csv", table((one) => one.probability.toFixed(6)));
byId("labels").onclick = () => download("labels.csv", table((one) => Number(isPresent(one))));
byId("stop").onclick = () => {
  const stopped = new Set(queue);
  queue = [];
  items = items.filter((item) => !stopped.has(item));
  ofBatch -= stopped.size;
  update();
};
byId("clear").onclick = () => {
  for (const item of items) if (item.url) URL.revokeObjectURL(item.url);
  queue = [];
  items = [];
  skipped = 0;
  most = MORE;
  byId("work").hidden = true;
  byId("files").focus();
  update();
};
byId("filter").onchange = () => { most = MORE; update(); };
byId("next").onclick = () => {
  const next = byId("cards").children.length;
  most += MORE;
  showCards();
  byId("cards").children[next]?.focus();
};
byId("thresholds").ontoggle = update;
byId("close").onclick = () => byId("dialog").close();
byId("dialog").onclose = () => {
  const {item} = opened;
  opened = null;
  byId("dialog-image").replaceChildren();
  item.view?.element.focus();
};
byId("dialog").onkeydown = (event) => {
  const id = {ArrowLeft: "before", ArrowRight: "after"}[event.key];
  if (id && !byId(id).disabled) byId(id).click();
};
for (const id of ["files", "folder", "photo"]) {
  byId(id).onchange = (event) => { add(chosen(event.target.files)); event.target.value = ""; };
}
byId("folder-button").hidden = !("webkitdirectory" in byId("folder"));
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", name === "dragover");
  });
}
document.addEventListener("drop", async (event) => add(await dropped(event.dataTransfer)));
addEventListener("resize", update);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);

send("/api/model", {}).then((answer) => answer && answer.ok && answer.json()).then((found) => {
  if (!found) return;
  model = found;
  byId("run").textContent = document.title = model.run;
  const tuned = model.tuned ? "thresholds tuned on val" : "one threshold for all classes, not tuned";
  byId("about").textContent =
    `${model.network}; ${model.checkpoint}; ${model.classes.length} classes, ${tuned}`;
  makeSliders(model.classes, update);
  makeFilters();
});
