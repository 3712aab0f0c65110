const HEAT = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

// Draws the evidence for a class over its image.
function overlay({map, part}, frame) {
  frame.querySelector("canvas")?.remove();
  const canvas = make("canvas", "", frame), side = 160;
  canvas.setAttribute("aria-hidden", "true");
  canvas.width = canvas.height = side;
  for (const [name, share] of Object.entries(part)) canvas.style[name] = `${100 * share}%`;
  const largest = Math.max(...map.flat()) || 1;
  const pixels = new ImageData(side, side);
  for (let y = 0, at = 0; y < side; y++) {
    for (let x = 0; x < side; x++, at += 4) {
      const heat = between(map, (y + .5) / side, (x + .5) / side) / largest;
      const place = heat * (HEAT.length - 1), low = Math.min(Math.floor(place), HEAT.length - 2);
      for (let c = 0; c < 3; c++) {
        pixels.data[at + c] = HEAT[low][c] + (place - low) * (HEAT[low + 1][c] - HEAT[low][c]);
      }
      pixels.data[at + 3] = 165 * heat;
    }
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

// Bilinear interpolation; a value of the map is at the centre of its cell.
function between(map, down, across) {
  const rows = map.length, columns = map[0].length;
  const y = Math.min(Math.max(down * rows - .5, 0), rows - 1);
  const x = Math.min(Math.max(across * columns - .5, 0), columns - 1);
  const top = Math.floor(y), left = Math.floor(x);
  const bottom = Math.min(top + 1, rows - 1), right = Math.min(left + 1, columns - 1);
  const mix = (row) => row[left] + (x - left) * (row[right] - row[left]);
  return mix(map[top]) + (y - top) * (mix(map[bottom]) - mix(map[top]));
}
