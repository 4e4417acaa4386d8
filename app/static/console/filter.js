// Checks a filter before it is sent, and finds the places of the server's errors in it.

import { JsonError, lineAndColumn, placeOf, readJson } from "./json.js";
import { t } from "./i18n.js";

function at(text, message, [start, end]) {
  const [line, column] = lineAndColumn(text, start);
  return { line, column, message, start, end };
}

// {value, places, errors}; value is null for an empty text.
export function checkedFilter(text) {
  if (!text.trim()) return { value: null, places: new Map(), errors: [] };
  try {
    return { ...readJson(text), errors: [] };
  } catch (error) {
    if (!(error instanceof JsonError)) throw error;
    const place = [error.offset, error.offset + 1];
    return { value: null, places: new Map(), errors: [at(text, t(error.message), place)] };
  }
}

// The errors of an answer that are about the filter.
export function serverErrors(error, text, places, root = "filter") {
  return error.locations
    .filter((one) => one.loc === `body.${root}` || one.loc.startsWith(`body.${root}.`))
    .map((one) => at(text, one.msg.replace(/^Value error, /, ""), placeOf(places, one.loc, root) ?? [0, text.length]));
}
