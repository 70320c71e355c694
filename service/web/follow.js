// Links within the dashboard are followed once its server answers: until then the page stays, and a banner says why.

import { getText } from "./api.js";
import { poll } from "./poll.js";
import { hideBanner, showBanner } from "./ui.js";

let asking;

function follow(url) {
  asking?.stop();
  const go = () => window.location.assign(url);
  const reach = async (signal) => {
    await getText(url, signal);
    go();
    return false;
  };
  asking = poll(reach, { up: hideBanner, down: (error, retry) => showBanner(error.message, retry), refused: go });
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const elsewhere = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey || event.button !== 0;
  if (!link || event.defaultPrevented || elsewhere || link.target || link.download) return;
  const { origin, pathname, search, hash } = new URL(link.href);
  if (origin !== window.location.origin || !/^\/ui(\/(?!static)|$)/.test(pathname)) return;
  const [path, here] = [pathname + search, window.location.pathname + window.location.search];
  if (hash && path === here) return;
  event.preventDefault();
  follow(path + hash);
});
