// Documents of a bot by filter, and the way to one of them.

import { BotSelect, Empty, Field, Icon, Loading, Pager, Problem, WithBots, html, useLoaded, useMemo, useRef, useState } from "./ui.js";
import { chosenBot, post } from "./api.js";
import { day, number, t, time } from "./i18n.js";
import { checkedFilter, serverErrors } from "./filter.js";
import { DocumentPage } from "./document.js";
import { ExportButton } from "./download.js";
import { Facets, narrowed } from "./facets.js";
import { FilterEditor, metadataKeys } from "./filter-form.js";
import { Upload } from "./upload.js";

const ROWS = 50;

export function DocumentsView({ route, caller }) {
  const [botId, docId] = route.ids;
  const mayWrite = caller.rank >= 1;
  const view = (bots) => {
    const bot = chosenBot(bots, botId);
    if (docId) return html`<${DocumentPage} key=${docId} bot=${bot} docId=${docId} query=${route.query} mayWrite=${mayWrite} />`;
    return html`<${Listing} key=${bot.chat_bot_id} bots=${bots} bot=${bot} mayWrite=${mayWrite} />`;
  };
  return html`<${WithBots} title=${t("nav.documents")}>${view}<//>`;
}

function Listing({ bots, bot, mayWrite }) {
  const [filterText, setFilterText] = useState("");
  const [sent, setSent] = useState({ filter: null, text: "", places: new Map() });
  const [sort, setSort] = useState("created_at desc");
  const [cursors, setCursors] = useState([null]);
  const [uploading, setUploading] = useState(null);
  const [dragging, setDragging] = useState(false);
  const [exportError, setExportError] = useState(null);
  const filter = useMemo(() => checkedFilter(filterText), [filterText]);
  const allKeys = useRef([]); // Of metadata, of all pages that were shown.
  const place = cursors.length - 1;
  const [by, order] = sort.split(" ");
  const page = useLoaded(
    (signal) => post("/data/documents/query", { chat_bot_id: bot.chat_bot_id, sort: by, order, limit: ROWS, total: true, cursor: cursors[place], filter: sent.filter }, { signal }),
    [sent, sort, cursors],
  );
  const refused = page.error ? serverErrors(page.error, sent.text, sent.places) : [];
  const send = (text, checked) => {
    setCursors([null]);
    setSent({ filter: checked.value, text, places: checked.places });
  };
  const apply = (event) => {
    event.preventDefault();
    if (!filter.errors.length) send(filterText, filter);
  };
  const narrow = (condition) => {
    const text = JSON.stringify(narrowed(sent.filter, condition), null, 2);
    setFilterText(text);
    send(text, checkedFilter(text));
  };
  const drop = (event) => {
    event.preventDefault();
    setDragging(false);
    if (mayWrite && event.dataTransfer.files[0]) setUploading({ file: event.dataTransfer.files[0] });
  };
  const documents = page.value?.documents;
  const seen = metadataKeys(documents);
  if (seen.length) allKeys.current = [...new Set([...allKeys.current, ...seen])];
  const keys = allKeys.current;
  return html`<div class=${`drop${dragging ? " dragging" : ""}`} onDragOver=${(event) => mayWrite && (event.preventDefault(), setDragging(true))}
      onDragLeave=${(event) => !event.currentTarget.contains(event.relatedTarget) && setDragging(false)} onDrop=${drop}>
    <header class="page"><h1>${t("nav.documents")}</h1><p>${t("documents.what")}</p>
      <div class="actions"><${ExportButton} bot=${bot} onError=${setExportError} />${mayWrite ? html`<button class="primary" onClick=${() => setUploading({})}><${Icon} name="upload" />${t("upload")}</button>` : html`<span class="muted">${t("read.only")}</span>`}</div></header>
    <div class="bar-line"><${Field} label=${t("bot")}><${BotSelect} bots=${bots} chosen=${bot.chat_bot_id} onChoose=${(id) => (location.hash = `#/documents/${id}`)} /><//>
      <${Field} label=${t("sort")}><select onChange=${(event) => (setCursors([null]), setSort(event.target.value))}>${["created_at desc", "updated_at desc", "title asc", "doc_id asc"].map(
        (one) => html`<option value=${one} selected=${one === sort}>${t(`sort.${one.split(" ")[0]}`)}</option>`)}</select><//></div>
    <details class="panel filter-panel"><summary>${t("filter")}${sent.filter ? html` <span class="state running">${t("filter.on")}</span>` : ""}</summary>
      <form onSubmit=${apply}><${FilterEditor} text=${filterText} rows=${4} filter=${filter} errors=${filterText === sent.text ? refused : []} keys=${keys} onInput=${setFilterText} />
        <div class="actions"><button class="small-button" disabled=${filter.errors.length > 0}>${t("filter.apply")}</button>
          ${sent.filter && html`<button type="button" class="small-button" onClick=${() => (setFilterText(""), send("", checkedFilter("")))}>${t("filter.clear")}</button>`}</div></form></details>
    <${Facets} bot=${bot} filter=${sent.filter} keys=${keys} onChoose=${narrow} />
    <${Problem} error=${exportError} />
    ${page.error && !refused.length && html`<${Problem} error=${page.error} />`}
    ${!page.value && !page.error && html`<${Loading} />`}
    ${documents?.length === 0 && (sent.filter
      ? html`<${Empty} icon="documents" title=${t("documents.no.match")}><p>${t("documents.no.match.why")}</p><//>`
      : html`<${Empty} icon="upload" title=${t("documents.none")}><p>${t("documents.none.why")}</p>
          ${mayWrite && html`<button class="primary" onClick=${() => setUploading({})}>${t("upload")}</button>`}<//>`)}
    ${documents?.length > 0 && html`<div class="table-box"><table class="rows"><thead><tr><th>${t("title.field")}</th><th class="right">${t("chunks")}</th><th>${t("tags")}</th><th>${t("metadata")}</th><th>${t("updated")}</th></tr></thead>
      <tbody>${documents.map((one) => html`<tr key=${one.doc_id}><td data-label=${t("title.field")}><a class="strong" href=${`#/documents/${bot.chat_bot_id}/${one.doc_id}`}>${one.title}</a>
          <span class="sub">${one.external_id ?? `#${one.doc_id}`}${one.author ? ` · ${one.author}` : ""}</span></td>
        <td class="right" data-label=${t("chunks")}>${number(one.chunk_count)}</td>
        <td data-label=${t("tags")}><span class="tags">${one.tags.slice(0, 4).map((tag) => html`<span class="tag">${tag}</span>`)}</span></td>
        <td data-label=${t("metadata")}><code class="clip">${Object.keys(one.metadata).length ? JSON.stringify(one.metadata) : "–"}</code></td>
        <td data-label=${t("updated")} class="nowrap"><span title=${time(one.updated_at)}>${day(one.updated_at)}</span></td></tr>`)}</tbody></table></div>
      <${Pager} from=${number(place * ROWS + 1)} to=${number(place * ROWS + documents.length)} total=${number(page.value.total)}
        onPrevious=${place > 0 && (() => setCursors(cursors.slice(0, -1)))} onNext=${page.value.next_cursor && (() => setCursors([...cursors, page.value.next_cursor]))} />`}
    ${uploading && html`<${Upload} bot=${bot} file=${uploading.file} onClose=${() => (setUploading(null), page.reload())} />`}
  </div>`;
}
