// The browser's storage: texts are kept as long as the tab is open, the theme and corrections permanently.

/** Return the stored value, or `otherwise` if there is none, storage is blocked, or the value is not valid JSON. */
function stored(storage, name, otherwise) {
  try {
    return JSON.parse(window[storage].getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Store a value; return false if the browser refuses. */
function store(storage, name, value) {
  try {
    window[storage].setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}
