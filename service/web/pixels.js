// Pictures as pixels: how two differ, and the frames of a sheet.

/** A loaded image. Rejects where there is none. */
export async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

const sizeOf = (picture) => [picture.naturalWidth ?? picture.width, picture.naturalHeight ?? picture.height];

function pixelsOf(picture, width, height) {
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(picture, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/**
 * Draw `second - first` on `canvas`, `gain` times as strong: gray is no difference, brighter is more. Answers the L2
 * norm and the largest difference, in the units of the searches, where black is 0 and white 1.
 */
export function drawDifference(canvas, first, second, gain) {
  const [width, height] = sizeOf(first);
  const [a, b] = [pixelsOf(first, width, height), pixelsOf(second, width, height)];
  let [squares, largest] = [0, 0];
  for (let i = 0; i < a.data.length; i += 1) {
    if (i % 4 === 3) continue; // opaque
    const difference = b.data[i] - a.data[i];
    squares += difference * difference;
    largest = Math.max(largest, Math.abs(difference));
    a.data[i] = 127.5 + (gain * difference) / 2;
  }
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(a, 0, 0);
  return { l2: Math.sqrt(squares) / 255, largest: largest / 255 };
}

/** Draw frame number `index` of `count` in a sheet, which has them row by row in ceil(sqrt(count)) columns. */
export function drawFrame(canvas, sheet, count, index) {
  const columns = Math.ceil(Math.sqrt(count));
  const [width, height] = [sheet.naturalWidth / columns, sheet.naturalHeight / Math.ceil(count / columns)];
  [canvas.width, canvas.height] = [width, height];
  const [x, y] = [width * (index % columns), height * Math.floor(index / columns)];
  canvas.getContext("2d").drawImage(sheet, x, y, width, height, 0, 0, width, height);
}
