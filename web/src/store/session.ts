// Who is signed in: a token that stays in this tab.

import { Cell } from "./cell";

const KEY = "perigee.token";

function first(): string {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    // Addresses are kept and shared; tokens are not.
    history.replaceState(null, "", location.pathname + location.search);
    sessionStorage.setItem(KEY, given);
  }
  return sessionStorage.getItem(KEY) ?? "";
}

export const token = new Cell<string>(first());
/** Why the last token was not taken. */
export const refusal = new Cell<string>("");

export function signIn(text: string): void {
  sessionStorage.setItem(KEY, text.trim());
  refusal.set("");
  token.set(text.trim());
}

export function signOut(why = ""): void {
  sessionStorage.removeItem(KEY);
  refusal.set(why);
  token.set("");
}
