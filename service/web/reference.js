// Search in the reference of the API: sections that have every word, outside their examples, stay, in the page and in the
// list beside it.

const search = document.getElementById("search");
const found = document.getElementById("found");
const list = document.querySelector(".sections");
const links = new Map([...list.querySelectorAll("li a")].map((link) => [link.hash.slice(1), link.parentElement]));
const entries = [...document.querySelectorAll(".entry")].map((element) => ({
  element,
  link: links.get(element.querySelector("h3 > a").id),
  text: [...element.children].filter((part) => part.tagName !== "DETAILS").map((part) => part.textContent).join(" ").toLowerCase(),
}));

function show() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const { element, link, text } of entries) {
    const matches = words.every((word) => text.includes(word));
    element.hidden = link.hidden = !matches;
    count += matches;
  }
  for (const group of list.querySelectorAll("ul")) {
    group.hidden = group.previousElementSibling.hidden = !group.querySelector("li:not([hidden])");
  }
  list.toggleAttribute("data-searching", words.length > 0);
  found.textContent = words.length ? `${count} of ${entries.length} sections` : "";
}

search.addEventListener("input", show);
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== search && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    search.focus();
  }
});
// A link into a section that the search hides shows all again.
document.addEventListener("click", (event) => {
  const hash = event.target.closest("main a[href^='#']")?.hash;
  if (hash && search.value) {
    search.value = "";
    show();
  }
});
show();
