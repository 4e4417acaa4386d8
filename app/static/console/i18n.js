// Texts in English and Korean. A text is a key with {names} in it.

import { en } from "./texts-en.js";
import { ko } from "./texts-ko.js";

const TEXTS = { en, ko };
let language = navigator.languages?.some((one) => /^ko\b/.test(one)) && /^ko\b/.test(navigator.language) ? "ko" : "en";

export const languages = { en: "English", ko: "한국어" };
export const currentLanguage = () => language;

export function setLanguage(chosen) {
  language = chosen;
  document.documentElement.lang = chosen;
}

export function t(key, values = {}) {
  const text = TEXTS[language][key] ?? TEXTS.en[key] ?? key;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

export const number = (value) => value.toLocaleString(language);
export const decimal = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
export const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
export const percent = (value) => `${Math.round(value * 100)} %`;

export function day(value) {
  return new Date(value).toLocaleDateString(language, { dateStyle: "medium" });
}

export function time(value) {
  return new Date(value).toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
}

setLanguage(language);
