// An item's files, to download.

import { h } from "./dom.js";
import { bytes } from "./format.js";

/** A line for each file; it is saved under its own name after `prefix`. */
export const files = (item, prefix = "") =>
  item.artifacts.map(({ name, media_type: type, size, sha256, url }) =>
    h(
      "li",
      {},
      h("a", { href: url, download: prefix + name }, name),
      h("span", { class: "muted" }, ` ${type}, ${bytes(size)}`),
      sha256 ? h("code", { class: "muted", title: `sha256 ${sha256}` }, String(sha256).slice(0, 12)) : null,
    ),
  );
