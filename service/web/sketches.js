// What the kinds of patterns look like, in a few lines each.

import { svg } from "./dom.js";

const line = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2 });
const square = (x, y, size) => svg("rect", { x, y, width: size, height: size });
const disc = (cx, cy, r) => svg("circle", { cx, cy, r });
const path = (d) => svg("path", { d });

const SKETCHES = {
  stripes: () => [4, 12, 20, 28, 36].map((x) => line(x - 8, 34, x + 8, -2)),
  checkerboard: () => [0, 1, 2, 3].flatMap((y) => [0, 1].map((x) => square(16 * x + 8 * (y % 2), 8 * y, 8))),
  gradient: () => [0, 1, 2, 3, 4].map((i) => svg("rect", { x: 0, y: 27 - 6 * i, width: 32, height: 5 - i })),
  circles: () => [disc(10, 11, 6), disc(23, 21, 7), disc(26, 6, 3)],
  polygons: () => [path("M4 26 L10 5 L19 18 Z"), path("M18 28 L20 15 L30 12 L29 25 Z")],
  blobs: () => [
    path("M5 13 C3 3 17 3 15 12 C14 20 6 22 5 13 Z"),
    path("M18 22 C18 14 30 15 28 23 C27 31 18 29 18 22 Z"),
  ],
  scribbles: () => [svg("path", { d: "M3 24 C8 2 12 30 17 12 S26 6 29 25", fill: "none" })],
  text: () => [svg("text", { x: 16, y: 23, "text-anchor": "middle", "font-size": 20, stroke: "none" }, "Aa")],
};

export const sketch = (kind) =>
  svg("svg", { viewBox: "0 0 32 32", class: "sketch", "aria-hidden": "true" }, ...(SKETCHES[kind]?.() ?? []));
