/** The API key: requested from the user when the service requires it, and kept only in this tab. */

import { byId } from "./dom.js";

const STORAGE_KEY = "forecaster-key";
let asking = null;

/** Return the current key, or null. */
export function currentKey() {
  return sessionStorage.getItem(STORAGE_KEY);
}

/** Ask the user for a key, once for all waiting requests; throw an error if the user cancels. */
export function askForKey(note) {
  asking ??= ask(note).finally(() => {
    asking = null;
  });
  return asking;
}

/** Set up the button that forgets the key. */
export function setUpForgetButton() {
  byId("forget-key").hidden = currentKey() === null;
  byId("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem(STORAGE_KEY);
    location.reload();
  });
}

function ask(note) {
  const [dialog, field] = [byId("key-dialog"), byId("key")];
  byId("key-note").textContent = note;
  field.value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORAGE_KEY, field.value.trim());
      field.value = "";
      byId("forget-key").hidden = false;
      dialog.close("given");
    };
    byId("key-cancel").onclick = () => dialog.close("");
    dialog.onclose = () => {
      const given = dialog.returnValue === "given";
      dialog.returnValue = "";
      if (given) resolve();
      else reject(new Error("the service needs an API key; press Forecast or reload the page to enter one"));
    };
  });
}
