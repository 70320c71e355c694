// Light, dark, or as the system has it: settled before anything is drawn, and kept by this browser. A classic script,
// since a module would run after the first paint. What draws by script watches `data-theme` of the document.
(() => {
  const KEY = "robustreps.theme";
  const THEMES = {
    system: { media: "(prefers-color-scheme: dark)", sign: "◐", next: "light" },
    light: { media: "not all", sign: "○", next: "dark" },
    dark: { media: "all", sign: "●", next: "system" },
  };
  let theme = "system";

  function apply(wanted) {
    theme = Object.hasOwn(THEMES, wanted) ? wanted : "system";
    const { media, sign, next } = THEMES[theme];
    document.getElementById("dark").media = media;
    document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = sign;
    button.title = `Theme: ${theme}. Change to ${next}`;
    button.setAttribute("aria-label", button.title);
  }

  function read() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // a browser that keeps nothing
    }
  }

  function choose() {
    apply(THEMES[theme].next);
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // it holds for this page
    }
  }

  apply(read());
  document.addEventListener("DOMContentLoaded", () => {
    apply(theme);
    document.getElementById("theme").addEventListener("click", choose);
  });
  window.addEventListener("storage", ({ key }) => key === KEY && apply(read())); // in another tab
})();
