// Uploads NDJSON in parts through the batch call, with progress, and with errors by line.

import { Dialog, Icon, Problem, html, useEffect, useRef, useState } from "./ui.js";
import { post } from "./api.js";
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
        <input type="file" class="hidden" accept=".ndjson,.jsonl,.json,.txt" onChange=${(event) => event.target.files[0] && start(event.target.files[0])} /></label>
      <label class="check"><input type="checkbox" checked=${replace} onChange=${() => setReplace(!replace)} />${t("upload.replace")}</label>
      <p class="small">${t("upload.format")}</p><pre class="code-block" tabindex="0" aria-label=${t("upload.format")}><code>${EXAMPLE}</code></pre>`}
    ${state && html`<p>${state.name}</p><progress max=${Math.max(1, state.total)} value=${state.done} aria-label=${t("upload")}></progress>
      <p role="status">${t("upload.done", { done: number(state.done), total: number(state.total) })}
        ${Object.entries(state.counts).map(([result, count]) => html` · ${t(`result.${result}`)} ${number(count)}`)}
        ${state.failed.length > 0 && html` · <b class="bad-text">${t("result.failed")} ${number(state.failed.length)}</b>`}</p>
      <${Problem} error=${problem} />
      ${state.failed.length > 0 && html`<ul class="line-errors">${state.failed.slice(0, SHOWN).map((one) => html`<li><b>${t("upload.line", { line: one.line })}</b> ${one.message}</li>`)}</ul>`}
      ${state.failed.length > SHOWN && html`<p class="small">${t("more", { count: number(state.failed.length - SHOWN) })}</p>`}`}
  <//>`;
}
