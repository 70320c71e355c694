// Whether this browser is signed in, and the way to the page that does it. The cookie itself no script can read.

const MARK = "robustreps.signed-in";
const LOGIN = "/ui/login";

/** Go and sign in, and come back to this address after that. */
export function signIn() {
  const { pathname, search } = window.location;
  if (pathname !== LOGIN) window.location.replace(`${LOGIN}?next=${encodeURIComponent(pathname + search)}`);
}

/** Where to go once signed in: an address of the dashboard, whatever the link says. */
export function next() {
  const wanted = new URLSearchParams(window.location.search).get("next") ?? "";
  return /^\/ui\/(?!login)[^\\]*$/.test(wanted) ? wanted : "/ui/";
}

export function isMarked() {
  try {
    return localStorage.getItem(MARK) === "yes";
  } catch {
    return false; // a browser that keeps nothing
  }
}

export function mark(signedIn) {
  try {
    if (signedIn) localStorage.setItem(MARK, "yes");
    else localStorage.removeItem(MARK);
  } catch {
    // then there is no button to sign out, and the session ends by itself
  }
}
