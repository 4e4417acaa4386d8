// Texts in English and Korean. A text is a key with {names} in it.

import { en } from "./texts-en.js";
import { ko } from "./texts-ko.js";

const TEXTS = { en, ko };
let language = navigator.languages?.some((one) => /^ko\b/.test(one)) && /^ko\b/.test(navigator.language) ? "ko" : "en";

export const languages = { en: "English", ko: "한국어" };
export const currentLanguage = () => language;

// Made once: toLocaleString makes a new one at each call, which costs more than all else of a row.
let numbers, days, times, seconds;

export function setLanguage(chosen) {
  language = chosen;
  numbers = new Intl.NumberFormat(chosen);
  days = new Intl.DateTimeFormat(chosen, { dateStyle: "medium" });
  times = new Intl.DateTimeFormat(chosen, { dateStyle: "medium", timeStyle: "short" });
  seconds = new Intl.DateTimeFormat(chosen, { dateStyle: "medium", timeStyle: "medium" });
  document.documentElement.lang = chosen;
}

export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? TEXTS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const number = (value) => numbers.format(value);
export const decimal = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const percent = (value) => `${Math.round(value * 100)} %`;

export const day = (value) => days.format(new Date(value));

export const time = (value, withSeconds = false) => (withSeconds ? seconds : times).format(new Date(value));

setLanguage(language);
