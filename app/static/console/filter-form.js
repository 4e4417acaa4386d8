// A filter as a form: conditions of which all or one must hold. The JSON stays what is sent.

import { Icon, JsonArea, Tabs, html, useState } from "./ui.js";
import { t } from "./i18n.js";
import { placeOf } from "./json.js";

const TYPES = ["eq", "ne", "contains", "not_contains", "icontains", "starts_with", "ends_with", "gt", "gte", "lt", "lte", "in", "nin", "contains_any", "contains_all", "exists", "is_empty"];
const LISTS = new Set(["in", "nin", "contains_any", "contains_all"]);
const WITHOUT_VALUE = new Set(["exists", "is_empty"]);
const KEYS = ["title", "external_id", "author", "file_path", "file_type", "tags", "created_at", "updated_at", "page_number"];
const MEMBERS = new Set(["type", "key", "value"]);

const isSimple = (node) =>
  TYPES.includes(node?.type) && typeof node.key === "string" && Object.keys(node).every((name) => MEMBERS.has(name)) &&
  (LISTS.has(node.type) ? Array.isArray(node.value) && node.value.every((one) => typeof one !== "object") : typeof node.value !== "object" || node.value === null);

// {join, conditions} of a filter; null if the form cannot show it.
function conditionsOf(value) {
  if (value === null) return { join: "and", conditions: [] };
  if (isSimple(value)) return { join: "and", conditions: [value] };
  const several = ["and", "or"].includes(value?.type) && Array.isArray(value.filters) && Object.keys(value).length === 2;
  return several && value.filters.every(isSimple) ? { join: value.type, conditions: value.filters } : null;
}

// What was typed: a number, true, false, or else a text. Quotation marks make a text of a number.
function typed(text) {
  const trimmed = text.trim();
  if (trimmed === "true" || trimmed === "false") return trimmed === "true";
  if (trimmed !== "" && /^-?(?:0|[1-9]\d*)(?:\.\d+)?$/.test(trimmed)) return Number(trimmed);
  return /^".*"$/.test(trimmed) ? trimmed.slice(1, -1) : text;
}

const shownOne = (value) => (typeof value === "string" && typeof typed(value) !== "string" ? `"${value}"` : String(value ?? ""));
const shown = (value) => (Array.isArray(value) ? value.map(shownOne).join(", ") : shownOne(value));

function textOf(join, conditions) {
  if (!conditions.length) return "";
  return JSON.stringify(conditions.length === 1 ? conditions[0] : { type: join, filters: conditions }, null, 2);
}

// `filter`: what checkedFilter returned for `text`; `errors`: of the server, about this text. `keys`: of metadata.
export function FilterEditor({ text, filter, errors, keys = [], rows, onInput }) {
  const [way, setWay] = useState("form");
  const simple = filter.errors.length ? null : conditionsOf(filter.value);
  const [join, setJoin] = useState("and");
  const ways = { form: t("filter.form"), json: "JSON" };
  const chosen = way === "form" && simple ? "form" : "json";
  const all = filter.errors.length ? filter.errors : errors;
  return html`<div class="filter-editor"><div class="filter-head"><span class="label">${t("filter")}</span>
      <${Tabs} names=${Object.values(ways)} chosen=${ways[way]} label=${t("filter")} onChoose=${(name) => setWay(Object.keys(ways).find((one) => ways[one] === name))} /></div>
    ${way === "form" && !simple && html`<p class="small" role="status">${t("filter.only.json")}</p>`}
    ${chosen === "form"
      ? html`<${Conditions} join=${simple.conditions.length > 1 ? simple.join : join} conditions=${simple.conditions} keys=${keys} errors=${all} places=${filter.places}
          onChange=${(conditions, joined) => (setJoin(joined), onInput(textOf(joined, conditions)))} />`
      : html`<${JsonArea} value=${text} rows=${rows} label=${t("filter.json")} errors=${all} onInput=${onInput}
          placeholder=${'{"type": "eq", "key": "metadata.language", "value": "ko"}'} />`}
  </div>`;
}

function Conditions({ join, conditions, keys, errors, places, onChange }) {
  const change = (at, members) => onChange(conditions.map((one, number) => (number === at ? { ...one, ...members } : one)), join);
  const messages = (at) => errors.filter((error) => within(error, conditions.length > 1 ? placeOf(places, `body.filter.filters.${at}`, "filter") : [0, Infinity]));
  const retype = (at, type) => {
    const old = conditions[at].value;
    const value = WITHOUT_VALUE.has(type) ? true : LISTS.has(type) ? [old].flat().filter((one) => typeof one !== "boolean") : [old].flat()[0] ?? "";
    change(at, { type, value });
  };
  return html`<div class="conditions">
    ${conditions.length > 1 && html`<label class="join">${t("filter.join")} <select value=${join} onChange=${(event) => onChange(conditions, event.target.value)}>
        ${["and", "or"].map((one) => html`<option value=${one} selected=${one === join}>${t(`filter.${one}`)}</option>`)}</select></label>`}
    ${conditions.map((one, at) => html`<div class="condition" key=${at} role="group" aria-label=${t("filter.condition", { number: at + 1 })}>
      <input list="filter-keys" aria-label=${t("filter.key")} aria-invalid=${messages(at).length > 0} placeholder="metadata.language" value=${one.key}
        onInput=${(event) => change(at, { key: event.target.value })} />
      <select aria-label=${t("filter.type")} onChange=${(event) => retype(at, event.target.value)}>${TYPES.map((type) => html`<option value=${type} selected=${type === one.type}>${t(`filter.${type}`)}</option>`)}</select>
      ${WITHOUT_VALUE.has(one.type)
        ? html`<select aria-label=${t("filter.value")} onChange=${(event) => change(at, { value: event.target.value === "true" })}>
            ${[true, false].map((is) => html`<option value=${String(is)} selected=${is === one.value}>${t(is ? "yes" : "no")}</option>`)}</select>`
        : html`<${Value} value=${one.value} list=${LISTS.has(one.type)} wrong=${messages(at).length > 0} onChange=${(value) => change(at, { value })} />`}
      <button type="button" class="plain danger" aria-label=${t("filter.remove", { number: at + 1 })} onClick=${() => onChange(conditions.filter((_, number) => number !== at), join)}><${Icon} name="trash" /></button>
      ${messages(at).map((error) => html`<p class="problem" role="alert">${error.message}</p>`)}
    </div>`)}
    <datalist id="filter-keys">${[...KEYS, ...keys].map((one) => html`<option value=${one} />`)}</datalist>
    <button type="button" class="small-button" onClick=${() => onChange([...conditions, { type: "eq", key: "", value: "" }], join)}><${Icon} name="plus" />${t("filter.add")}</button>
  </div>`;
}

// The text stays as it is typed: 1. is no number yet.
function Value({ value, list, wrong, onChange }) {
  const [text, setText] = useState(null);
  const read = (typedText) => (list ? typedText.split(",").map((one) => typed(one.trim())).filter((one) => one !== "") : typed(typedText));
  return html`<input aria-label=${t("filter.value")} aria-invalid=${wrong} placeholder=${list ? t("filter.list") : ""} value=${text ?? shown(value)}
    onInput=${(event) => (setText(event.target.value), onChange(read(event.target.value)))} onBlur=${() => setText(null)} />`;
}

const within = (error, place) => Boolean(place) && error.start >= place[0] && error.start < place[1];

// Keys of metadata of some documents, for a filter or for counts.
export function metadataKeys(documents) {
  const found = new Set();
  for (const one of documents ?? []) for (const name of Object.keys(one.metadata)) if (/^[^.]+$/.test(name)) found.add(`metadata.${name}`);
  return [...found].sort().slice(0, 50);
}
