// Thresholds that the user has moved, by class; the run keeps its own.
const moved = new Map(), sliders = [];

const isPresent = (one) => moved.has(one.name) ? one.probability >= moved.get(one.name) : one.present;
const isChanged = (one) => isPresent(one) !== one.present;
const thresholdOf = (one) => moved.has(one.name) ? moved.get(one.name) : one.threshold;

// Makes a slider for each class of the model; `changed` is called after each move.
function makeSliders(classes, changed) {
  classes.forEach(({name, threshold}, index) => {
    const row = make("div", "class", byId("classes"));
    make("span", "name", row, name);
    const scale = make("div", "scale", row), canvas = make("canvas", "", scale);
    canvas.setAttribute("aria-hidden", "true");
    const input = make("input", "", scale);
    Object.assign(input, {type: "range", min: 0, max: 1, step: .005, value: threshold});
    input.setAttribute("aria-label", `Threshold of ${name}`);
    const slider = {
      name, threshold, index, row, canvas, input,
      number: make("span", "number", row), count: make("span", "count", row),
    };
    input.oninput = () => {
      moved.set(name, Number(input.value));
      changed();
    };
    sliders.push(slider);
    showSlider(slider, []);
  });
  byId("reset").onclick = () => {
    moved.clear();
    for (const {input, threshold} of sliders) input.value = threshold;
    changed();
  };
}

// Shows a threshold, the number of images that reach it, and what its move has changed.
function showSlider(slider, items) {
  const ones = items.map((item) => item.classes[slider.index]);
  const present = ones.filter(isPresent);
  const more = present.filter((one) => !one.present).length;
  const fewer = ones.filter((one) => one.present && !isPresent(one)).length;
  const value = moved.has(slider.name) ? moved.get(slider.name) : slider.threshold;
  slider.row.classList.toggle("moved", moved.has(slider.name));
  slider.number.textContent = value.toFixed(3);
  slider.count.textContent = `${present.length} of ${ones.length}`;
  if (more || fewer) {
    const parts = [more && `+${more}`, fewer && `−${fewer}`].filter(Boolean).join(", ");
    make("span", "changed", slider.count, ` (${parts})`);
  }
  const changes = more || fewer ? `, ${more} more, ${fewer} fewer` : "";
  slider.input.setAttribute(
    "aria-valuetext", `${value.toFixed(3)}: ${present.length} of ${ones.length} images${changes}`);
  if (byId("thresholds").open) drawStrip(slider.canvas, ones);
}

// A line for each image, at its probability.
function drawStrip(canvas, ones) {
  const ratio = devicePixelRatio, style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name);
  const colours = [colour("--below"), colour("--present"), colour("--changed")];
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = canvas.clientHeight * ratio;
  const pen = canvas.getContext("2d"), width = 2 * ratio;
  pen.fillStyle = colour("--line");
  pen.fillRect(0, canvas.height - ratio, canvas.width, ratio);
  pen.globalAlpha = ones.length > 100 ? .5 : .85;
  for (const one of ones) {
    pen.fillStyle = colours[isChanged(one) ? 2 : Number(isPresent(one))];
    pen.fillRect(one.probability * (canvas.width - width), 0, width, canvas.height);
  }
}
