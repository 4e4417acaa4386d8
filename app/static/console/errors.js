// The last requests that failed, for operators.

import { Field, Problem, html, useLoaded, useState } from "./ui.js";
import { get } from "./api.js";
import { t, time } from "./i18n.js";

const SECONDS = 5;
const ROWS = 100;
const REQUEST_ID = /^[A-Za-z0-9._-]{1,64}$/;

export function RecentErrors() {
  const [id, setId] = useState("");
  const [serverOnly, setServerOnly] = useState(false);
  const wanted = id.trim();
  const query = { limit: ROWS, request_id: REQUEST_ID.test(wanted) ? wanted : null, server_only: serverOnly };
  const errors = useLoaded((signal) => get("/errors", query, { signal }), [query.request_id, serverOnly], SECONDS);
  const found = wanted && !query.request_id ? [] : errors.value?.errors;
  return html`<h2 class="section">${t("errors")}</h2>
    <div class="bar-line"><${Field} label=${t("error.request")}><input type="search" value=${id} maxlength="64" spellcheck=${false} onInput=${(event) => setId(event.target.value)} /><//>
      <label class="check"><input type="checkbox" checked=${serverOnly} onChange=${() => setServerOnly(!serverOnly)} />${t("errors.server")}</label></div>
    <${Problem} error=${errors.error} />
    ${found?.length === 0 && html`<p class="muted" role="status">${wanted ? t("errors.unknown") : t("errors.none")}</p>`}
    ${found?.length > 0 && html`<div class="table-box"><table class="rows"><thead><tr><th>${t("error.request")}</th><th>${t("errors.route")}</th><th class="right">${t("errors.status")}</th><th>${t("errors.code")}</th><th>${t("errors.at")}</th></tr></thead>
      <tbody>${found.map((one) => html`<tr key=${one.request_id + one.at}><td data-label=${t("error.request")}><code>${one.request_id}</code></td>
        <td data-label=${t("errors.route")}>${one.method} <code>${one.route}</code></td>
        <td class="right" data-label=${t("errors.status")}><span class=${`state ${one.http_status >= 500 ? "down" : ""}`}>${one.http_status}</span></td>
        <td data-label=${t("errors.code")}><code>${one.code ?? "–"}</code></td>
        <td data-label=${t("errors.at")} class="nowrap">${time(one.at, true)}</td></tr>`)}</tbody></table></div>`}
    <p class="small">${t("errors.own")}</p>`;
}
