// What a training job's page has in place of items: curves of its epochs and, at the end, the network that it made.

import { getItem, listEpochs } from "./api.js";
import { lineChart } from "./chart.js";
import { h, setText } from "./dom.js";
import { pageLink } from "./facts.js";
import { files } from "./files.js";
import { accuracy, count, duration, isFinal, measure } from "./format.js";
import { wideTable } from "./tables.js";
import { note } from "./ui.js";

const ACCURACIES = {
  train_accuracy: "trained on",
  clean_accuracy: "clean",
  pgd10_accuracy: "PGD-10",
};
const LEGEND =
  "Trained on: the images of training, as the attack left them. Clean and PGD-10: images held out for validation.";
const RESULTS = {
  clean_accuracy: ["Accuracy on clean validation images", accuracy],
  pgd20_accuracy: ["Accuracy under PGD-20", accuracy],
  train_accuracy: ["Accuracy on the images trained on", accuracy],
  train_loss: ["Loss in the last epoch", measure],
};

const along = (epochs, name) =>
  epochs.filter(({ metrics }) => name in metrics).map(({ epoch, metrics }) => [epoch, metrics[name]]);

/** How fast the last epoch went, and how much of it went by in wait for images. */
function paceOf({ epoch, metrics }) {
  const { images_per_second: rate, data_wait: wait, seconds, lr } = metrics;
  const words = [`${count(rate)} images/s`, `${accuracy(wait)} of it waiting for data`, duration(seconds)];
  return `Epoch ${count(epoch)}: ${words.join(" · ")} · learning rate ${measure(lr)}`;
}

/** The curves and the table of some epochs, as `nodes`. */
export class EpochCurves {
  constructor() {
    this.loss = lineChart("Loss", { along: "epoch" });
    this.accuracy = lineChart("Accuracy", { along: "epoch", value: accuracy, share: true, log: null, names: Object.values(ACCURACIES) });
    this.rate = lineChart("Learning rate", { along: "epoch", log: false });
    this.table = h("div");
    const charts = [this.loss, this.accuracy, this.rate].map((chart) => h("div", { class: "panel" }, chart.node));
    this.folded = h("details", { hidden: true }, h("summary", {}, "All epochs"), this.table);
    const legend = h("p", { class: "muted legend" }, LEGEND);
    this.nodes = [h("div", { class: "charts" }, ...charts), legend, this.folded];
  }

  update(epochs) {
    this.loss.update([along(epochs, "train_loss")]);
    this.accuracy.update(Object.keys(ACCURACIES).map((name) => along(epochs, name)));
    this.rate.update([along(epochs, "lr")]);
    const names = [...new Set(epochs.flatMap(({ metrics }) => Object.keys(metrics)))];
    const rows = epochs.map(({ epoch, metrics }) => [count(epoch), ...names.map((name) => measure(metrics[name]))]);
    this.table.replaceChildren(wideTable("Epochs", ["epoch", ...names], rows));
    this.folded.hidden = epochs.length === 0;
  }
}

export class Training {
  constructor(place) {
    this.epochs = [];
    this.problem = h("div");
    this.result = h("section", { class: "panel", "aria-labelledby": "result-title", hidden: true });
    this.curves = new EpochCurves();
    this.pace = h("p", { class: "muted" }, "The first epoch is not over yet.");
    const title = h("h2", { id: "epochs-title" }, "Epochs");
    const epochs = h("section", { "aria-labelledby": "epochs-title" }, title, this.pace, ...this.curves.nodes);
    place.replaceChildren(this.problem, this.result, epochs);
  }

  /** Ask for the epochs when one more should be over, and once more at the end. */
  async refresh(job, signal) {
    const { progress, parameters, finished_at: end } = job;
    if (end !== null && end === this.drawn) return;
    const due = Math.floor((progress.steps_done * parameters.epochs) / progress.steps_total);
    if (this.epochs.length < due || isFinal(job.state)) await this.load(job, signal);
    if (!isFinal(job.state)) return;
    this.show(job, await getItem(job.id, 0, signal));
    this.drawn = end;
  }

  async load(job, signal) {
    this.epochs = (await listEpochs(job.id, signal)).epochs;
    if (this.epochs.length === 0) return;
    this.curves.update(this.epochs);
    setText(this.pace, paceOf(this.epochs.at(-1)));
  }

  show(job, item) {
    if (this.epochs.length === 0) setText(this.pace, "No epoch came to its end.");
    if (item.error) this.problem.replaceChildren(note("bad", String(item.error.title), item.error.detail ?? ""));
    if (!item.metrics) return;
    const found = Object.entries(RESULTS).filter(([name]) => name in item.metrics);
    const rows = found.map(([name, [label, shown]]) => [label, shown(item.metrics[name])]);
    rows.unshift(["Network", pageLink("models", item.metrics.model)]);
    this.result.replaceChildren(
      h("h2", { id: "result-title" }, "Result"),
      h(
        "table",
        { class: "pairs", "aria-labelledby": "result-title" },
        ...rows.map(([label, value]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, value))),
      ),
      h("ul", { class: "files" }, ...files(item)),
    );
    this.result.hidden = false;
  }
}
