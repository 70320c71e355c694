// What images were called that were uploaded from this browser. The service knows them by their digests alone.

const KEY = "robustreps.uploads";
/** Names that are kept, the newest. */
const MOST = 1000;

function read() {
  try {
    return new Map(JSON.parse(localStorage.getItem(KEY)));
  } catch {
    return new Map(); // none yet, or a browser that keeps nothing
  }
}

const names = read();

/** Keep the name of an image, for as long as this browser does. */
export function keepName(id, name) {
  names.delete(id);
  names.set(id, name);
  try {
    localStorage.setItem(KEY, JSON.stringify([...names].slice(-MOST)));
  } catch {
    // then it is known until the page is left
  }
}

/** What an image was called, or the beginning of its digest. */
export const uploadedName = (id) => names.get(id) ?? `image ${String(id).slice(0, 15)}`;
