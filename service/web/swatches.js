// What a start that is made, not named, looks like.

import { h } from "./dom.js";

const SIDE = 32; // pixels

/** A pixel of Gaussian noise, by Box and Muller. */
const gaussian = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());

const SWATCHES = {
  gray: { uses: { level: 0.5 }, pixel: ({ level }) => level },
  noise: { uses: { mean: 0.5, std: 0.05 }, pixel: ({ mean, std }) => mean + std * gaussian() },
};

/** A small picture for a source that has one, with show(values); or null. */
export function swatch(source) {
  if (!SWATCHES[source]) return null;
  const { uses, pixel } = SWATCHES[source];
  const node = h("canvas", { class: "swatch", width: SIDE, height: SIDE, "aria-hidden": "true" });
  const context = node.getContext("2d");
  const image = context.createImageData(SIDE, SIDE);
  const show = (values) => {
    for (let i = 0; i < image.data.length; i += 1)
      image.data[i] = i % 4 === 3 ? 255 : 255 * pixel({ ...uses, ...values });
    context.putImageData(image, 0, 0);
  };
  return { node, show };
}
