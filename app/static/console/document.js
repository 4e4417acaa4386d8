// One document: its fields, its chunks, and changes to both.

import { Dialog, Field, Icon, JsonArea, Loading, Pager, Problem, html, useAction, useEffect, useLoaded, useMemo, useRef, useState } from "./ui.js";
import { call, get } from "./api.js";
import { number, t, time } from "./i18n.js";
import { checkedFilter, serverErrors } from "./filter.js";
import { marked } from "./words.js";

const ROWS = 100;
const LOADED = 1000;

// The document and the chunks up to the page that has chunk `wanted`.
async function load(bot, docId, wanted, signal) {
  const path = `/data/document/${docId}`;
  const first = await get(path, { chat_bot_id: bot.chat_bot_id, limit: LOADED }, { signal });
  const found = { document: first.document, chunks: first.chunks, cursor: first.next_cursor };
  while (found.cursor && found.chunks[found.chunks.length - 1].chunk_index < wanted) await more(bot, docId, found, signal);
  return found;
}

async function more(bot, docId, found, signal) {
  const next = await get(`/data/document/${docId}`, { chat_bot_id: bot.chat_bot_id, limit: LOADED, cursor: found.cursor }, { signal });
  found.chunks.push(...next.chunks);
  found.cursor = next.next_cursor;
}

export function DocumentPage({ bot, docId, query, mayWrite }) {
  const wanted = query.chunk === undefined ? -1 : Number(query.chunk);
  const loaded = useLoaded((signal) => load(bot, docId, wanted, signal), [docId, wanted]);
  const [page, setPage] = useState(null);
  const [open, setOpen] = useState(null);
  const target = useRef(null);
  useEffect(() => {
    if (loaded.value && page === null) {
      const place = Math.max(0, loaded.value.chunks.findIndex((chunk) => chunk.chunk_index === wanted));
      setPage(Math.floor(place / ROWS));
    }
  }, [loaded.value]);
  useEffect(() => {
    target.current?.scrollIntoView({ block: "center" });
  }, [page]);
  const paging = useAction(async (next) => {
    if (next * ROWS >= loaded.value.chunks.length && loaded.value.cursor) await more(bot, docId, loaded.value);
    setPage(next);
  });
  const back = `#/documents/${bot.chat_bot_id}`;
  const crumbs = html`<nav class="crumbs" aria-label=${t("where")}><a href=${back}>${bot.bot_name}</a><span>/</span><span>${t("document.number", { id: docId })}</span></nav>`;
  if (!loaded.value) return html`${crumbs}<h1>${t("document")}</h1>${loaded.error ? html`<${Problem} error=${loaded.error} />` : html`<${Loading} />`}`;
  const { document, chunks, cursor } = loaded.value;
  const at = page ?? 0;
  const shown = chunks.slice(at * ROWS, (at + 1) * ROWS);
  const close = (changed) => {
    setOpen(null);
    if (changed === "deleted") location.hash = back;
    else if (changed) loaded.reload();
  };
  const facts = [["external_id", document.external_id], ["author", document.author], ["file_path", document.file_path], ["file_type", document.file_type],
    ["created", time(document.created_at)], ["updated", time(document.updated_at)]].filter(([, value]) => value);
  return html`${crumbs}
    <header class="page"><h1>${document.title}</h1>
      <div class="actions">${query.q && html`<a class="small-button" href=${`#/search?bot=${bot.chat_bot_id}&q=${encodeURIComponent(query.q)}`}>${t("back.search")}</a>`}
        ${mayWrite && html`<button class="small-button" onClick=${() => setOpen({ kind: "fields" })}><${Icon} name="edit" />${t("edit")}</button>
        <button class="small-button danger" onClick=${() => setOpen({ kind: "delete" })}><${Icon} name="trash" />${t("delete")}</button>`}</div></header>
    <section class="panel facts"><dl>${facts.map(([name, value]) => html`<div><dt>${t(name)}</dt><dd>${value}</dd></div>`)}
        ${document.tags.length > 0 && html`<div><dt>${t("tags")}</dt><dd class="tags">${document.tags.map((tag) => html`<span class="tag">${tag}</span>`)}</dd></div>`}</dl>
      ${Object.keys(document.metadata).length > 0 && html`<pre class="code-block" tabindex="0" aria-label=${t("metadata")}><code>${JSON.stringify(document.metadata, null, 2)}</code></pre>`}</section>
    <h2 class="section">${t("chunks.count", { count: number(document.chunk_count) })}</h2>
    <ol class="chunks">${shown.map((chunk) => {
      const found = chunk.chunk_index === wanted;
      return html`<li key=${chunk.chunk_id} ref=${found ? target : undefined} class=${found ? "found" : ""} aria-current=${found ? "true" : undefined}>
        <span class="index">${chunk.chunk_index}</span>
        <p>${found ? marked(chunk.text, query.q) : chunk.text}${chunk.page_number !== null && html`<span class="sub">${t("page", { page: chunk.page_number })}</span>`}</p>
        ${mayWrite && html`<button class="plain" aria-label=${t("chunk.edit", { index: chunk.chunk_index })} onClick=${() => setOpen({ kind: "chunk", chunk })}><${Icon} name="edit" /></button>`}</li>`;
    })}</ol>
    ${(chunks.length > ROWS || cursor) && html`<${Pager} from=${number(at * ROWS + 1)} to=${number(at * ROWS + shown.length)} total=${number(document.chunk_count)}
      onPrevious=${at > 0 && !paging.busy && (() => paging.run(at - 1))} onNext=${(cursor || (at + 1) * ROWS < chunks.length) && !paging.busy && (() => paging.run(at + 1))} />`}
    <${Problem} error=${paging.error} />
    ${open?.kind === "fields" && html`<${FieldsForm} bot=${bot} document=${document} onClose=${close} />`}
    ${open?.kind === "chunk" && html`<${ChunkForm} bot=${bot} docId=${docId} chunk=${open.chunk} last=${document.chunk_count === 1} onClose=${close} />`}
    ${open?.kind === "delete" && html`<${DeleteDocument} bot=${bot} document=${document} onClose=${close} />`}`;
}

function FieldsForm({ bot, document, onClose }) {
  const [title, setTitle] = useState(document.title);
  const [author, setAuthor] = useState(document.author ?? "");
  const [tags, setTags] = useState(document.tags.join(", "));
  const [text, setText] = useState(JSON.stringify(document.metadata, null, 2));
  const metadata = useMemo(() => checkedFilter(text), [text]);
  const saving = useAction(async () => {
    const wanted = metadata.value ?? {};
    const removed = Object.fromEntries(Object.keys(document.metadata).filter((name) => !(name in wanted)).map((name) => [name, null]));
    const updates = { title, author: author || null, tags: tags.split(",").map((tag) => tag.trim()).filter(Boolean), metadata: { ...wanted, ...removed } };
    if (title === document.title) delete updates.title; // Its words would be written again.
    await call("PATCH", `/data/document/${document.doc_id}/metadata`, { body: { chat_bot_id: bot.chat_bot_id, metadata_updates: updates } });
    onClose(true);
  });
  const refused = saving.error ? serverErrors(saving.error, text, metadata.places, "metadata_updates") : [];
  const isObject = metadata.value === null || (typeof metadata.value === "object" && !Array.isArray(metadata.value));
  return html`<${Dialog} title=${t("document.edit")} onClose=${() => onClose(false)} onSubmit=${() => !metadata.errors.length && isObject && saving.run()}
    footer=${html`<button type="button" onClick=${() => onClose(false)}>${t("cancel")}</button>
      <button class="primary" disabled=${saving.busy || metadata.errors.length > 0 || !isObject || !title.trim()}>${t("save")}</button>`}>
    <${Field} label=${t("title.field")} wide><input autofocus required maxlength="512" value=${title} onInput=${(event) => setTitle(event.target.value)} /><//>
    <div class="pair"><${Field} label=${t("author")}><input maxlength="256" value=${author} onInput=${(event) => setAuthor(event.target.value)} /><//>
      <${Field} label=${t("tags")} hint=${t("tags.hint")}><input value=${tags} onInput=${(event) => setTags(event.target.value)} /><//></div>
    <div class="field wide"><span class="label">${t("metadata")}</span><${JsonArea} value=${text} rows=${8} label=${t("metadata")} errors=${metadata.errors.length ? metadata.errors : refused} onInput=${setText} /></div>
    ${!isObject && html`<p class="problem" role="alert">${t("metadata.object")}</p>`}
    <${Problem} error=${refused.length ? null : saving.error} />
  <//>`;
}

function ChunkForm({ bot, docId, chunk, last, onClose }) {
  const [text, setText] = useState(chunk.text);
  const path = `/data/document/${docId}/chunks/${chunk.chunk_index}`;
  const saving = useAction(async () => {
    await call("PUT", path, { body: { chat_bot_id: bot.chat_bot_id, text, page_number: chunk.page_number } });
    onClose(true);
  });
  const deleting = useAction(async () => {
    await call("DELETE", path, { query: { chat_bot_id: bot.chat_bot_id } });
    onClose(true);
  });
  return html`<${Dialog} title=${t("chunk.edit", { index: chunk.chunk_index })} onClose=${() => onClose(false)} onSubmit=${saving.run}
    footer=${html`<button type="button" class="destructive left" disabled=${last || deleting.busy} title=${last ? t("chunk.last") : ""} onClick=${deleting.run}>${t("delete")}</button>
      <button type="button" onClick=${() => onClose(false)}>${t("cancel")}</button><button class="primary" disabled=${saving.busy || !text.trim()}>${t("save")}</button>`}>
    <${Field} label=${t("text")} hint=${t("chunk.hint")} wide><textarea autofocus rows="8" maxlength="8192" value=${text} onInput=${(event) => setText(event.target.value)}></textarea><//>
    <${Problem} error=${saving.error ?? deleting.error} />
  <//>`;
}

function DeleteDocument({ bot, document, onClose }) {
  const deleting = useAction(async () => {
    await call("DELETE", `/data/document/${document.doc_id}`, { query: { chat_bot_id: bot.chat_bot_id } });
    onClose("deleted");
  });
  return html`<${Dialog} title=${t("document.delete")} onClose=${() => onClose(false)} onSubmit=${deleting.run}
    footer=${html`<button type="button" autofocus onClick=${() => onClose(false)}>${t("cancel")}</button><button class="destructive" disabled=${deleting.busy}>${t("delete")}</button>`}>
    <p>${t("document.delete.why", { title: document.title, count: number(document.chunk_count) })}</p><${Problem} error=${deleting.error} />
  <//>`;
}
