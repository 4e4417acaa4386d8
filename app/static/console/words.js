// Marks the words of a question in a text. A Korean word is also marked where only its first syllables agree, because
// particles and endings differ between a question and its answer.

import { html } from "./vendor/preact-htm.js";

const HANGUL = /^[\uac00-\ud7a3]+$/;

function stems(question) {
  const words = question.normalize("NFC").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? [];
  const found = new Set();
  for (const word of words) {
    if (HANGUL.test(word)) {
      for (let length = word.length; length >= Math.min(2, word.length); length--) found.add(word.slice(0, length));
    } else if (word.length > 1) found.add(word);
  }
  return [...found].sort((one, other) => other.length - one.length);
}

export function marked(text, question) {
  const wanted = question ? stems(question) : [];
  if (!wanted.length) return text;
  const pattern = new RegExp(`(?<![\\p{L}\\p{N}])(?:${wanted.join("|")})`, "giu");
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(pattern)) {
    parts.push(text.slice(end, match.index), html`<mark>${match[0]}</mark>`);
    end = match.index + match[0].length;
  }
  return [...parts, text.slice(end)];
}
