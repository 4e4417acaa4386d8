// Bots: list, register, change, delete.

import { Dialog, Empty, Field, Icon, ListPager, Loading, Problem, html, useAction, useEffect, useLoaded, useMemo, useState } from "./ui.js";
import { allBots, call, get, post } from "./api.js";
import { day, number, t, time } from "./i18n.js";

const ROWS = 50;
const AT_ONCE = 6;

export function BotsView({ route, caller }) {
  const bots = useLoaded(() => allBots(), []);
  const [open, setOpen] = useState(route.query.new ? { kind: "new" } : null);
  const [wanted, setWanted] = useState("");
  const [sort, setSort] = useState("created_at");
  const [page, setPage] = useState(0);
  const mayWrite = caller.rank >= 1;
  const close = (changed) => {
    setOpen(null);
    if (changed) bots.reload();
  };
  const found = useMemo(() => listed(bots.value ?? [], wanted.toLowerCase(), sort), [bots.value, wanted, sort]);
  const shown = found.slice(page * ROWS, (page + 1) * ROWS);
  const details = useDetails(shown);

  return html`<header class="page"><h1>${t("nav.bots")}</h1><p>${t("bots.what")}</p>
      <div class="actions">${mayWrite
        ? html`<button class="primary" onClick=${() => setOpen({ kind: "new" })}><${Icon} name="plus" />${t("bots.register")}</button>`
        : html`<span class="muted">${t("read.only")}</span>`}</div></header>
    <${Problem} error=${bots.error} />
    ${!bots.value && !bots.error && html`<${Loading} />`}
    ${bots.value?.length === 0 && html`<${Empty} icon="bots" title=${t("bots.none")}><p>${t("bots.none.why")}</p>
      ${mayWrite && html`<button class="primary" onClick=${() => setOpen({ kind: "new" })}>${t("bots.register")}</button>`}<//>`}
    ${bots.value?.length > 0 && html`
      <div class="bar-line"><input type="search" data-first aria-label=${t("bots.find")} placeholder=${t("bots.find")} value=${wanted}
          onInput=${(event) => (setPage(0), setWanted(event.target.value))} />
        <select aria-label=${t("sort")} onChange=${(event) => setSort(event.target.value)}>
          <option value="created_at">${t("sort.newest")}</option><option value="bot_name">${t("sort.name")}</option></select>
        <span class="muted">${t("bots.total", { count: number(found.length) })}</span></div>
      <div class="table-box"><table class="rows"><thead><tr><th>${t("name")}</th><th class="right">${t("documents")}</th>
          <th class="right">${t("chunks")}</th><th>${t("model")}</th><th>${t("work")}</th><th>${t("created")}</th><th><span class="hidden">${t("actions")}</span></th></tr></thead>
        <tbody>${shown.map((bot) => html`<${BotRow} key=${bot.chat_bot_id} bot=${bot} detail=${details[bot.chat_bot_id]} mayWrite=${mayWrite} onOpen=${setOpen} />`)}</tbody>
      </table></div>
      <${ListPager} page=${page} size=${ROWS} total=${found.length} onPage=${setPage} />`}
    ${open?.kind === "new" && html`<${BotForm} onClose=${close} caller=${caller} />`}
    ${open?.kind === "edit" && html`<${BotForm} bot=${open.bot} onClose=${close} caller=${caller} />`}
    ${open?.kind === "delete" && html`<${DeleteBot} bot=${open.bot} onClose=${close} />`}`;
}

const byName = new Intl.Collator(undefined, { numeric: true }).compare;

function listed(bots, wanted, sort) {
  const found = bots.filter((bot) => `${bot.bot_name} ${bot.account_name} ${bot.chat_bot_id}`.toLowerCase().includes(wanted));
  const newestFirst = (one, other) => (one.created_at < other.created_at ? 1 : one.created_at > other.created_at ? -1 : 0);
  return found.sort(sort === "bot_name" ? (one, other) => byName(one.bot_name, other.bot_name) : newestFirst);
}

// Numbers of the bots that are shown, a few calls at a time.
function useDetails(shown) {
  const [details, setDetails] = useState({});
  const ids = shown.map((bot) => bot.chat_bot_id);
  useEffect(() => {
    let over = false;
    const left = ids.filter((id) => !details[id]);
    const take = async () => {
      for (let id = left.shift(); id && !over; id = left.shift()) {
        const detail = await get(`/collection/${id}`).catch(() => null);
        if (!over && detail) setDetails((old) => ({ ...old, [id]: detail }));
      }
    };
    Array.from({ length: AT_ONCE }, take);
    return () => {
      over = true;
    };
  }, [ids.join()]);
  return details;
}

function BotRow({ bot, detail, mayWrite, onOpen }) {
  const count = (name) => (detail ? number(detail[name]) : "…");
  const waiting = detail ? detail.sagas_in_flight + detail.vector_gc_backlog : 0;
  return html`<tr>
    <td data-label=${t("name")}><a class="strong" href=${`#/documents/${bot.chat_bot_id}`}>${bot.bot_name}</a>
      <span class="sub one-line" title=${bot.chat_bot_id}>${bot.account_name} · <code>${bot.chat_bot_id}</code></span></td>
    <td class="right" data-label=${t("documents")}>${count("document_count")}</td>
    <td class="right" data-label=${t("chunks")}>${count("chunk_count")}</td>
    <td data-label=${t("model")}>${bot.embedding_model ?? "–"}<span class="sub">${bot.mode ? t(`mode.${bot.mode}`) : t("mode.default")}${bot.dense_weight === null ? "" : ` · ${bot.dense_weight}`}</span></td>
    <td data-label=${t("work")}>${waiting ? html`<span class="state running">${number(waiting)}</span>` : detail ? html`<span class="state ok">${t("work.none")}</span>` : "…"}</td>
    <td data-label=${t("created")} class="nowrap"><span title=${time(bot.created_at)}>${day(bot.created_at)}</span></td>
    <td class="row-actions"><a class="small-button" href=${`#/search?bot=${bot.chat_bot_id}`}>${t("search")}</a>
      ${mayWrite && html`<button class="plain" aria-label=${`${t("edit")}: ${bot.bot_name}`} onClick=${() => onOpen({ kind: "edit", bot })}><${Icon} name="edit" /></button>
        <button class="plain danger" aria-label=${`${t("delete")}: ${bot.bot_name}`} onClick=${() => onOpen({ kind: "delete", bot })}><${Icon} name="trash" /></button>`}</td>
  </tr>`;
}

function BotForm({ bot, onClose, caller }) {
  const [id] = useState(() => bot?.chat_bot_id ?? crypto.randomUUID?.() ?? "");
  const [name, setName] = useState(bot?.bot_name ?? "");
  const [account, setAccount] = useState("");
  const [mode, setMode] = useState(bot?.mode ?? "");
  const [weight, setWeight] = useState(bot?.dense_weight ?? "");
  const [confidence, setConfidence] = useState(bot?.min_confidence ?? "");
  const defaults = { mode: mode || null, dense_weight: weight === "" ? null : Number(weight), min_confidence: confidence === "" ? null : Number(confidence) };
  const saving = useAction(async () => {
    if (bot) await call("PATCH", `/collection/${id}`, { body: { bot_name: name, ...defaults } });
    else {
      const owner = account.trim() ? { account_name: account.trim() } : {};
      await post("/collection/create", { chat_bot_id: id, bot_name: name, collection_name: `bot_${id.replaceAll("-", "_")}`, ...owner, ...defaults });
    }
    onClose(true);
  });
  return html`<${Dialog} title=${bot ? t("bots.edit") : t("bots.register")} onClose=${() => onClose(false)} onSubmit=${saving.run}
    footer=${html`<button type="button" onClick=${() => onClose(false)}>${t("cancel")}</button>
      <button class="primary" disabled=${saving.busy || !name.trim()}>${bot ? t("save") : t("bots.register")}</button>`}>
    <${Field} label=${t("name")} wide><input autofocus required maxlength="255" value=${name} onInput=${(event) => setName(event.target.value)} placeholder=${t("bots.example")} /><//>
    ${!bot && caller.account === null && html`<${Field} label=${t("account")} hint=${t("account.hint")} wide><input maxlength="128" value=${account} placeholder="chatty" onInput=${(event) => setAccount(event.target.value)} /><//>`}
    <div class="pair">
      <${Field} label=${t("mode")}><select onChange=${(event) => setMode(event.target.value)}>
        <option value="" selected=${!mode}>${t("mode.default")}</option>
        ${["dense", "lexical", "hybrid"].map((one) => html`<option value=${one} selected=${mode === one}>${t(`mode.${one}`)}</option>`)}</select><//>
      <${Field} label=${t("weight")}><input type="number" min="0" max="1" step="0.05" placeholder="0.3" value=${weight} onInput=${(event) => setWeight(event.target.value)} /><//>
      <${Field} label=${t("confidence.min")}><input type="number" min="0" max="1" step="0.05" placeholder="–" value=${confidence} onInput=${(event) => setConfidence(event.target.value)} /><//>
    </div>
    <p class="small">${t("bots.id")} <code>${id}</code></p>
    <${Problem} error=${saving.error} />
  <//>`;
}

function DeleteBot({ bot, onClose }) {
  const [typed, setTyped] = useState("");
  const deleting = useAction(async () => {
    await call("DELETE", `/collection/${bot.chat_bot_id}`);
    onClose(true);
  });
  const sure = typed === bot.bot_name;
  return html`<${Dialog} title=${t("bots.delete")} onClose=${() => onClose(false)} onSubmit=${() => sure && deleting.run()}
    footer=${html`<button type="button" onClick=${() => onClose(false)}>${t("cancel")}</button>
      <button class="destructive" disabled=${!sure || deleting.busy}>${t("delete")}</button>`}>
    <p>${t("bots.delete.why")}</p>
    <${Field} label=${t("bots.delete.type", { name: bot.bot_name })} wide><input autofocus autocomplete="off" value=${typed} onInput=${(event) => setTyped(event.target.value)} /><//>
    <${Problem} error=${deleting.error} />
  <//>`;
}
