// What a ranking of a data set's images found: those that activate each direction most and least.

import { getArtifact, imageUrl } from "./api.js";
import { h } from "./dom.js";
import { count, measure } from "./format.js";
import { artifact, plainPicture } from "./picture.js";

/** More directions than this stand only in the files. */
const MOST = 100;
const ENDS = { top: "most", bottom: "least" };

function row(job, ranked, end) {
  const pictures = ranked
    .filter((each) => each.end === end)
    .map(({ index, class: label, activation }) => {
      const caption = [measure(activation), label].filter(Boolean).join(" · ");
      return plainPicture(imageUrl(job.parameters.dataset, index), caption, `#${index}`);
    });
  return h("div", { class: "extreme" }, h("h4", {}, ENDS[end]), h("div", { class: "pictures" }, ...pictures));
}

/** The nodes that show a ranking: a panel for each direction. */
export async function drawExtremes(job, item, signal) {
  const ranked = await getArtifact(artifact(item, "extremes.json").url, signal);
  const { directions } = job.parameters;
  const all = `${MOST} of ${count(directions.length)} directions; extremes.csv has all.`;
  const more = directions.length > MOST ? [h("p", {}, all)] : [];
  const panels = directions.slice(0, MOST).map(({ label }) => {
    const mine = ranked.filter(({ direction }) => direction === label);
    return h(
      "section",
      { class: "panel extremes" },
      h("h2", {}, String(label)),
      ...Object.keys(ENDS).map((end) => row(job, mine, end)),
    );
  });
  return [...panels, ...more];
}
