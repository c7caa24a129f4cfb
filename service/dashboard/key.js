/** The API key: asked for when the service wants one, and kept in this tab alone. */

import { byId } from "./dom.js";

const PLACE = "forecaster-key";
let asking = null;

/** Return the key in use, null without one. */
export function currentKey() {
  return sessionStorage.getItem(PLACE);
}

/** Ask for a key, once however many requests want one; an error where none is given. */
export function askForKey(note) {
  asking ??= ask(note).finally(() => {
    asking = null;
  });
  return asking;
}

/** Offer a button that forgets the key. */
export function offerToForget() {
  byId("forget-key").hidden = currentKey() === null;
  byId("forget-key").addEventListener("click", () => {
    sessionStorage.removeItem(PLACE);
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
      sessionStorage.setItem(PLACE, field.value.trim());
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
