// Entry: choose the view by the path. Links are ordinary ones; only the state filter changes the URL in place.

import { jobView } from "./job.js";
import { listView } from "./list.js";
import { messagePage } from "./ui.js";

const main = document.getElementById("main");
const path = window.location.pathname.replace(/\/+$/, "");
const job = /^\/ui\/jobs\/([^/]+)$/.exec(path);

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

if (path === "/ui" || path === "/ui/jobs") listView(main);
else if (job) jobView(main, decoded(job[1]));
else messagePage(main, "Page not found", `There is nothing at ${decoded(path)}.`);
