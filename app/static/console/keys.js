// API keys of all accounts, for operators.

import { CopyButton, Dialog, Field, Icon, ListPager, Loading, Problem, html, useAction, useLoaded, useState } from "./ui.js";
import { SCOPES, call, get, post } from "./api.js";
import { t, time } from "./i18n.js";

const ROWS = 50;

export function KeysView() {
  const keys = useLoaded((signal) => get("/keys", null, { signal }), []);
  const [open, setOpen] = useState(null);
  const [page, setPage] = useState(0);
  const found = [...(keys.value?.keys ?? [])].reverse();
  const shown = found.slice(page * ROWS, (page + 1) * ROWS);
  const close = () => {
    setOpen(null);
    keys.reload();
  };
  return html`<header class="page"><h1>${t("nav.keys")}</h1><p>${t("keys.what")}</p>
      <div class="actions"><button class="primary" onClick=${() => setOpen({ kind: "new" })}><${Icon} name="plus" />${t("keys.create")}</button></div></header>
    <${Problem} error=${keys.error} />${!keys.value && !keys.error && html`<${Loading} />`}
    ${keys.value && html`<div class="table-box"><table class="rows"><thead><tr><th>${t("keys.prefix")}</th><th>${t("account")}</th><th>${t("scope")}</th><th>${t("state")}</th><th>${t("created")}</th><th><span class="hidden">${t("actions")}</span></th></tr></thead>
      <tbody>${shown.map((key) => html`<tr key=${key.prefix}><td data-label=${t("keys.prefix")}><code class="strong">${key.prefix}</code><span class="sub">${key.note}</span></td>
        <td data-label=${t("account")}>${key.account_name ?? t("operator")}</td><td data-label=${t("scope")}>${key.scopes.map((scope) => t(`scope.${scope}`)).join(", ")}</td>
        <td data-label=${t("state")}><span class=${`state ${key.usable ? "ok" : ""}`}>${key.usable ? t("key.usable") : key.revoked_at ? t("key.revoked") : t("key.expired")}</span>${key.expires_at && html`<span class="sub">${t("expires", { at: time(key.expires_at) })}</span>`}</td>
        <td data-label=${t("created")} class="nowrap">${time(key.created_at)}</td>
        <td class="row-actions">${key.usable && html`<button class="small-button danger" onClick=${() => setOpen({ kind: "revoke", key })}>${t("revoke")}</button>`}</td></tr>`)}</tbody></table></div>
      <${ListPager} page=${page} size=${ROWS} total=${found.length} onPage=${setPage} />`}
    ${open?.kind === "new" && html`<${NewKey} onClose=${close} />`}
    ${open?.kind === "revoke" && html`<${Revoke} row=${open.key} onClose=${close} />`}`;
}

function NewKey({ onClose }) {
  const [account, setAccount] = useState("");
  const [scope, setScope] = useState("read");
  const [note, setNote] = useState("");
  const [days, setDays] = useState("");
  const [made, setMade] = useState(null);
  const making = useAction(async () => {
    const answer = await post("/keys", { scope, account_name: scope === "operator" ? null : account.trim(), note: note || null, days: days === "" ? null : Number(days) });
    setMade(answer.key);
  });
  if (made) {
    return html`<${Dialog} title=${t("keys.made")} onClose=${onClose} footer=${html`<button type="button" class="primary" onClick=${onClose}>${t("close")}</button>`}>
      <p>${t("keys.once")}</p><pre class="code-block" tabindex="0"><code>${made}</code></pre><${CopyButton} text=${made} /><//>`;
  }
  return html`<${Dialog} title=${t("keys.create")} onClose=${onClose} onSubmit=${making.run}
    footer=${html`<button type="button" onClick=${onClose}>${t("cancel")}</button><button class="primary" disabled=${making.busy || (scope !== "operator" && !account.trim())}>${t("keys.create")}</button>`}>
    <${Field} label=${t("scope")} hint=${t(`scope.${scope}.what`)} wide><select autofocus onChange=${(event) => setScope(event.target.value)}>${SCOPES.map((one) => html`<option value=${one} selected=${one === scope}>${t(`scope.${one}`)}</option>`)}</select><//>
    ${scope !== "operator" && html`<${Field} label=${t("account")} wide><input required maxlength="128" value=${account} onInput=${(event) => setAccount(event.target.value)} /><//>`}
    <div class="pair"><${Field} label=${t("note")}><input maxlength="256" value=${note} onInput=${(event) => setNote(event.target.value)} /><//>
      <${Field} label=${t("days")} hint=${t("days.hint")}><input type="number" min="1" max="36500" value=${days} onInput=${(event) => setDays(event.target.value)} /><//></div>
    <${Problem} error=${making.error} /><//>`;
}

function Revoke({ row, onClose }) {
  const revoking = useAction(async () => {
    await call("DELETE", `/keys/${row.prefix}`);
    onClose();
  });
  return html`<${Dialog} title=${t("revoke")} onClose=${onClose} onSubmit=${revoking.run}
    footer=${html`<button type="button" autofocus onClick=${onClose}>${t("cancel")}</button><button class="destructive" disabled=${revoking.busy}>${t("revoke")}</button>`}>
    <p>${t("revoke.why", { prefix: row.prefix })}</p><${Problem} error=${revoking.error} /><//>`;
}
