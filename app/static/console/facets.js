// The values of a field over all documents of a bot that a filter finds, with their numbers. One of them narrows the filter.

import { Field, Loading, Problem, html, useLoaded, useState } from "./ui.js";
import { post } from "./api.js";
import { number, t } from "./i18n.js";

const VALUES = 12;
const FIELDS = ["tags", "author", "file_type"];

export function Facets({ bot, filter, keys, onChoose }) {
  const names = [...FIELDS, ...keys];
  const [key, setKey] = useState("tags");
  const [open, setOpen] = useState(false);
  const load = (signal) => (open ? post("/data/documents/facets", { chat_bot_id: bot.chat_bot_id, key, limit: VALUES, filter }, { signal }) : null);
  const counted = useLoaded(load, [bot.chat_bot_id, key, filter, open]);
  const values = counted.value?.values ?? [];
  const most = Math.max(1, ...values.map((one) => one.documents));
  const condition = (value) => (value === null ? { type: "is_empty", key, value: true } : { type: key === "tags" ? "contains" : "eq", key, value });
  return html`<details class="panel facets-panel" onToggle=${(event) => setOpen(event.currentTarget.open)}><summary>${t("facets")}</summary>
    <div class="facets"><${Field} label=${t("facets.of")}><select onChange=${(event) => setKey(event.target.value)}>
        ${names.map((name) => html`<option value=${name} selected=${name === key}>${FIELDS.includes(name) ? t(name) : name}</option>`)}</select><//>
      <${Problem} error=${counted.error} />
      ${!counted.value && !counted.error && html`<${Loading} />`}
      ${counted.value && !values.length && html`<p class="muted">${t("facets.none")}</p>`}
      <ul>${values.map((one) => html`<li key=${String(one.value)}><button type="button" class="facet" onClick=${() => onChoose(condition(one.value))} aria-label=${t("facets.choose", { value: String(one.value ?? t("facets.empty")), count: number(one.documents) })}>
          <span class="facet-name">${one.value === null ? t("facets.empty") : String(one.value)}</span>
          <svg class="bar" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true"><rect class="track" width="100" height="6" rx="3" /><rect width=${(one.documents / most) * 100} height="6" rx="3" /></svg>
          <span class="right">${number(one.documents)}</span></button></li>`)}</ul>
      ${counted.value?.other_values > 0 && html`<p class="small">${t("facets.other", { values: number(counted.value.other_values), documents: number(counted.value.other_documents) })}</p>`}
    </div></details>`;
}

// The filter with one more condition.
export function narrowed(filter, condition) {
  if (!filter) return condition;
  return filter.type === "and" ? { ...filter, filters: [...filter.filters, condition] } : { type: "and", filters: [filter, condition] };
}
