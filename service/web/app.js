// Entry: choose the view by the path. Links are ordinary ones; only the filters of a list change the URL in place.

import { datasetList, modelList } from "./catalog.js";
import { compareView } from "./compare.js";
import { datasetView } from "./dataset.js";
import { failedList } from "./failed.js";
import { jobView } from "./job.js";
import { listView } from "./list.js";
import { arrive, loginView } from "./login.js";
import { modelView } from "./model.js";
import { formView } from "./new.js";
import { messagePage } from "./ui.js";
import { workerList } from "./workers.js";
import "./follow.js";
import "./keyboard.js";

const main = document.getElementById("main");
const path = window.location.pathname.replace(/\/+$/, "");
const [, kind, name] = /^\/ui\/([a-z]+)(?:\/([^/]+))?$/.exec(path) ?? [];
const VIEWS = {
  jobs: [listView, jobView],
  models: [modelList, modelView],
  datasets: [datasetList, datasetView],
  failed: [failedList],
  workers: [workerList],
  new: [formView],
  compare: [compareView],
  login: [loginView],
};

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

const section = path === "/ui" ? "jobs" : kind;
const [list, one] = Object.hasOwn(VIEWS, section) ? VIEWS[section] : [];
document.querySelector(`[data-section="${section}"]`)?.setAttribute("aria-current", name ? "true" : "page");
const view = name ? one : list;
const refused = await arrive();
if (refused) messagePage(main, "Not signed in", refused.message);
else if (view) view(main, name && decoded(name));
else messagePage(main, "Page not found", `There is nothing at ${decoded(path)}.`);
