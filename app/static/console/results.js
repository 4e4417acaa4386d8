// The results of one search: scores, the time of each stage, the request as a program.

import { CopyButton, Problem, Tabs, html, useState } from "./ui.js";
import { base, keysRequired } from "./api.js";
import { decimal, milliseconds, number, percent, t } from "./i18n.js";
import { LANGUAGES, snippet } from "./snippets.js";
import { marked } from "./words.js";
import { addQuestion, saved } from "./saved.js";

const STAGES = ["embedding", "dense", "lexical", "filter", "postgres", "rerank", "total"];

export function Column({ mode, answer, error, question, botId, longest }) {
  return html`<section class="column" aria-label=${t(`mode.${mode}`)}>
    <header><h2><i class=${`dot ${mode}`}></i>${t(`mode.${mode}`)}</h2>
      ${answer && html`<span class="muted">${milliseconds(answer.total_time_ms)}</span>`}</header>
    ${error && html`<${Problem} error=${error} />`}
    ${answer && html`<${Timing} timings=${answer.timings} longest=${longest} />`}
    ${answer && !answer.results.length && html`<p class="nothing">${t("results.none")}</p>`}
    <ol class="results">${answer?.results.map(
      (result, at) => html`<li key=${result.chunk_id}><${Result} result=${result} rank=${at + 1} mode=${mode} question=${question} botId=${botId} /></li>`,
    )}</ol>
  </section>`;
}

function Result({ result, rank, mode, question, botId }) {
  const link = `#/documents/${botId}/${result.doc_id}?chunk=${result.chunk_index}&q=${encodeURIComponent(question)}`;
  return html`<article class="result">
    <header><span class="rank">${rank}</span><a href=${link}>${result.document.title}</a>
      <span class="score" title=${t("score")}>${decimal(result.score)}</span></header>
    <p class="passage">${marked(result.chunk_text, question)}</p>
    <dl class="scores">
      <${Score} name=${t("dense")} value=${result.dense_score} kind="dense" />
      <${Score} name=${t("lexical")} value=${result.lexical_score} kind="lexical" whole=${mode === "lexical" ? Math.max(result.lexical_score ?? 1, 10) : 10} />
      <${Score} name=${t("coverage")} value=${result.lexical_coverage} kind="coverage" shown=${percent} />
      <${Score} name=${t("confidence")} value=${result.confidence} kind="confidence" shown=${percent} />
      ${mode === "rerank" && html`<${Score} name=${t("rerank")} value=${result.rerank_score} kind="rerank" />`}
    </dl>
    <footer class="tags"><span>${t("chunk", { index: result.chunk_index })}</span>
      ${result.page_number !== null && html`<span>${t("page", { page: result.page_number })}</span>`}
      ${result.duplicates?.count > 0 && html`<span>${t("duplicates", { count: result.duplicates.count })}</span>`}
      ${result.document.tags.slice(0, 4).map((tag) => html`<span class="tag">${tag}</span>`)}
      <${KeepButton} botId=${botId} question=${question} passage=${result.chunk_text} /></footer>
  </article>`;
}

// Makes the question one of the saved ones, with this passage as the one that should come.
function KeepButton({ botId, question, passage }) {
  const [kept, setKept] = useState(() => saved(botId).questions.some((one) => one.question === question.trim() && one.passage === passage));
  const keep = () => {
    addQuestion(botId, question.trim(), passage);
    setKept(true);
  };
  return html`<button type="button" class="keep" disabled=${kept} aria-label=${kept ? undefined : t("keep.label")} title=${t("keep.what")} onClick=${keep}>${t(kept ? "kept" : "keep")}</button>`;
}

function Score({ name, value, kind, whole = 1, shown = decimal }) {
  const share = value === null ? 0 : Math.min(1, Math.max(0, value / whole));
  return html`<div><dt>${name}</dt>
    <dd><svg class=${`bar ${kind}`} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
      <rect class="track" width="100" height="6" rx="3" /><rect width=${share * 100} height="6" rx="3" /></svg>
      <span>${value === null ? "–" : shown(value)}</span></dd></div>`;
}

// A line for each stage. Stages overlap, so the lines do not add up to the total.
function Timing({ timings, longest }) {
  const stages = STAGES.filter((stage) => timings[`${stage}_ms`] > 0);
  return html`<details class="timing" open><summary>${t("timing")}</summary>
    <dl>${stages.map((stage) => html`<div><dt>${t(`stage.${stage}`)}</dt>
      <dd><svg class=${`bar ${stage}`} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
        <rect class="track" width="100" height="6" rx="3" /><rect width=${Math.min(100, (timings[`${stage}_ms`] / longest) * 100)} height="6" rx="3" /></svg>
        <span>${milliseconds(timings[`${stage}_ms`])}</span></dd></div>`)}</dl>
    ${timings.filter_plan && html`<p class="small">${t("plan", { plan: timings.filter_plan.replaceAll("_", " "), count: number(timings.matching_documents ?? 0) })}</p>`}
  </details>`;
}

export function Snippets({ found }) {
  const [language, setLanguage] = useState(LANGUAGES[0]);
  const [mode, setMode] = useState(found[found.length - 1].mode);
  const { body } = (found.find((one) => one.mode === mode) ?? found[0]);
  const text = snippet(language, base, body, keysRequired);
  return html`<section class="panel snippets"><header><h2>${t("request")}</h2>
      <${Tabs} names=${LANGUAGES} chosen=${language} onChoose=${setLanguage} label=${t("request")} />
      <select aria-label=${t("modes")} onChange=${(event) => setMode(event.target.value)}>${found.map(
        (one) => html`<option value=${one.mode} selected=${one.mode === mode}>${t(`mode.${one.mode}`)}</option>`,
      )}</select>
      <${CopyButton} text=${text} /></header>
    <pre class="code-block" tabindex="0" aria-label=${language}><code>${text}</code></pre></section>`;
}
