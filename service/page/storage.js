// What lasts in the browser: texts as long as the tab, the theme and corrections for longer.

/** Return what was stored under a name, or `otherwise`; storage may be blocked, or hold what another version wrote. */
function stored(storage, name, otherwise) {
  try {
    return JSON.parse(window[storage].getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Store a value; return whether the browser did. */
function store(storage, name, value) {
  try {
    window[storage].setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
