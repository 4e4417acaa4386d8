// Uploads NDJSON in parts through the batch call, with progress, and with errors by line.

import { Dialog, Icon, Problem, html, useEffect, useRef, useState } from "./ui.js";
import { call, post } from "./api.js";
import { number, t } from "./i18n.js";
import { JsonError, readJson } from "./json.js";

const PART_DOCUMENTS = 50;
const PART_CHARACTERS = 1 << 20;
const SHOWN = 100;
const EXAMPLE = '{"document": {"title": "경복궁 안내", "external_id": "guide/1", "tags": ["seoul"]}, "chunks": [{"chunk_index": 0, "text": "경복궁은 화요일에 문을 닫는다."}]}';

// [{line, entry}] and [{line, message}]. A chunk may also be a text alone.
function readLines(text, botId) {
  const entries = [];
  const errors = [];
  for (const [at, line] of text.replace(/^\ufeff/, "").split(/\r?\n/).entries()) {
    if (!line.trim()) continue;
    try {
      const { value } = readJson(line);
      if (!value?.document || !Array.isArray(value.chunks)) throw new JsonError("upload.shape", 0);
      const chunks = value.chunks.map((chunk, index) => (typeof chunk === "string" ? { chunk_index: index, text: chunk } : chunk));
      entries.push({ line: at + 1, size: line.length, entry: { document: { ...value.document, chat_bot_id: botId }, chunks } });
    } catch (error) {
      if (!(error instanceof JsonError)) throw error;
      errors.push({ line: at + 1, message: t(error.message) });
    }
  }
  return { entries, errors };
}

function* parts(entries) {
  let part = [];
  let size = 0;
  for (const one of entries) {
    if (part.length && (part.length === PART_DOCUMENTS || size + one.size > PART_CHARACTERS)) {
      yield part;
      part = [];
      size = 0;
    }
    part.push(one);
    size += one.size;
  }
  if (part.length) yield part;
}

const MANIFEST = '{"format":"chat-memory-export"';

// The headers with which this file is imported; null if it is no export.
async function headersOfExport(file) {
  const [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  const type = { "Content-Type": "application/x-ndjson" };
  if (first === 0x1f && second === 0x8b) return { ...type, "Content-Encoding": "gzip" };
  return (await file.slice(0, MANIFEST.length).text()) === MANIFEST ? type : null;
}

// The same file, sent again, goes on where it was cut off.
function importFile(bot, file, headers, replace, signal) {
  const query = { chat_bot_id: bot.chat_bot_id, stream_key: `console-${file.size}-${file.lastModified}`, on_conflict: replace ? "replace_if_changed" : "error" };
  return call("POST", "/collection/import", { query, content: file, headers, signal });
}

// Sends documents that have an external_id apart from those without: only the former can replace what is stored.
async function send(part, replace, signal) {
  const results = [];
  for (const named of [true, false]) {
    const some = part.filter((one) => Boolean(one.entry.document.external_id) === named);
    if (!some.length) continue;
    const option = named && replace ? { on_conflict: "replace_if_changed" } : {};
    const answer = await post("/data/insert/batch", { documents: some.map((one) => one.entry), ...option }, { signal, accept: [422] });
    if (answer.results) results.push(...answer.results.map((result, at) => ({ line: some[at].line, result: result.result, message: result.error?.detail })));
    else results.push(...some.map((one, at) => ({ line: one.line, result: null, message: (answer.errors?.find((error) => error.loc.startsWith(`body.documents.${at}.`) || error.loc === `body.documents.${at}`)?.msg) ?? answer.detail })));
  }
  return results;
}

export function Upload({ bot, file, onClose }) {
  const [replace, setReplace] = useState(true);
  const [state, setState] = useState(null);
  const [problem, setProblem] = useState(null);
  const [over, setOver] = useState(false);
  const control = useRef(new AbortController());
  const start = async (chosen) => {
    setProblem(null);
    const headers = await headersOfExport(chosen);
    if (headers) {
      setState({ name: chosen.name, imported: {} });
      try {
        setState({ name: chosen.name, imported: await importFile(bot, chosen, headers, replace, control.current.signal), ended: true });
      } catch (error) {
        if (error.name === "AbortError") return;
        setProblem(error);
        setState({ name: chosen.name, imported: {}, ended: true });
      }
      return;
    }
    const { entries, errors } = readLines(await chosen.text(), bot.chat_bot_id);
    const now = { name: chosen.name, total: entries.length, done: 0, failed: [...errors], counts: {}, ended: false };
    setState({ ...now });
    try {
      for (const part of parts(entries)) {
        for (const one of await send(part, replace, control.current.signal)) {
          now.done++;
          if (one.message) now.failed.push(one);
          else now.counts[one.result] = (now.counts[one.result] ?? 0) + 1;
        }
        setState({ ...now });
      }
    } catch (error) {
      if (error.name !== "AbortError") setProblem(error);
    }
    setState({ ...now, ended: true, failed: now.failed.sort((one, other) => one.line - other.line) });
  };
  useEffect(() => {
    if (file) start(file);
    return () => control.current.abort();
  }, []);
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    if (event.dataTransfer.files[0]) start(event.dataTransfer.files[0]);
  };
  return html`<${Dialog} title=${t("upload.to", { bot: bot.bot_name })} onClose=${onClose}
    footer=${html`<button type="button" class=${state?.ended ? "primary" : ""} onClick=${onClose}>${state && !state.ended ? t("cancel") : t("close")}</button>`}>
    ${!state && html`<label class=${`dropzone${over ? " over" : ""}`} onDragOver=${(event) => (event.preventDefault(), setOver(true))} onDragLeave=${() => setOver(false)} onDrop=${drop}>
        <${Icon} name="upload" /><strong>${t("upload.drop")}</strong><span class="muted">${t("upload.choose")}</span>
        <input type="file" class="hidden" accept=".ndjson,.jsonl,.json,.txt,.gz" onChange=${(event) => event.target.files[0] && start(event.target.files[0])} /></label>
      <label class="check"><input type="checkbox" checked=${replace} onChange=${() => setReplace(!replace)} />${t("upload.replace")}</label>
      <p class="small">${t("upload.format")}</p><pre class="code-block" tabindex="0" aria-label=${t("upload.format")}><code>${EXAMPLE}</code></pre>`}
    ${state?.imported && html`<p>${state.name}</p>${!state.ended && html`<progress aria-label=${t("import")}></progress>`}
      <p role="status">${state.imported.stored === undefined ? state.ended ? "" : t("import.running") : t("import.done", { stored: number(state.imported.stored), failed: number(state.imported.failed) })}</p>
      ${state.imported.torn && html`<p class="notice bad" role="alert">${t("import.torn", { reason: state.imported.torn })}</p>`}
      ${state.imported.verified && html`<p class="small">${state.imported.verified.findings ? t("job.found", { count: number(state.imported.verified.findings) }) : t("job.agree")}</p>`}
      <${Problem} error=${problem} />`}
    ${state && !state.imported && html`<p>${state.name}</p><progress max=${Math.max(1, state.total)} value=${state.done} aria-label=${t("upload")}></progress>
      <p role="status">${t("upload.done", { done: number(state.done), total: number(state.total) })}
        ${Object.entries(state.counts).map(([result, count]) => html` · ${t(`result.${result}`)} ${number(count)}`)}
        ${state.failed.length > 0 && html` · <b class="bad-text">${t("result.failed")} ${number(state.failed.length)}</b>`}</p>
      <${Problem} error=${problem} />
      ${state.failed.length > 0 && html`<ul class="line-errors">${state.failed.slice(0, SHOWN).map((one) => html`<li><b>${t("upload.line", { line: one.line })}</b> ${one.message}</li>`)}</ul>`}
      ${state.failed.length > SHOWN && html`<p class="small">${t("more", { count: number(state.failed.length - SHOWN) })}</p>`}`}
  <//>`;
}
