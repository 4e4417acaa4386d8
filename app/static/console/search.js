// The search bench: one question to several modes side by side.

import { BotSelect, Empty, Field, Problem, WithBots, html, useAction, useEffect, useLoaded, useMemo, useRef, useState } from "./ui.js";
import { chooseBot, chosenBot, post } from "./api.js";
import { t } from "./i18n.js";
import { Column, Snippets } from "./results.js";
import { checkedFilter, serverErrors } from "./filter.js";
import { FilterEditor, metadataKeys } from "./filter-form.js";
import { MODES as SEARCHES } from "./saved.js";

// The last one is a hybrid search whose results are reranked, which a server need not offer.
const MODES = [...SEARCHES, "rerank"];

export const SearchView = ({ route }) =>
  html`<${WithBots} title=${t("nav.search")}>${(bots) => html`<${Bench} bots=${bots} route=${route} />`}<//>`;

// Keys of metadata that the newest documents have.
async function someKeys(botId, signal) {
  const page = await post("/data/documents/query", { chat_bot_id: botId, limit: 50 }, { signal });
  return metadataKeys(page.documents);
}

function Bench({ bots, route }) {
  const [botId, setBotId] = useState(() => chosenBot(bots, route.query.bot).chat_bot_id);
  const [question, setQuestion] = useState(route.query.q || "");
  const [modes, setModes] = useState(SEARCHES);
  const [limit, setLimit] = useState(5);
  const [weight, setWeight] = useState("");
  const [confidence, setConfidence] = useState("");
  const [byDocument, setByDocument] = useState(false);
  const [distinct, setDistinct] = useState(false);
  const [filterText, setFilterText] = useState(route.query.filter || "");
  const [answers, setAnswers] = useState(null);
  const [filterErrors, setFilterErrors] = useState([]);
  const running = useRef(null);
  const keys = useLoaded((signal) => someKeys(botId, signal), [botId]);
  const filter = useMemo(() => checkedFilter(filterText), [filterText]);
  const bot = bots.find((one) => one.chat_bot_id === botId);

  const bodyOf = (mode) => ({
    chat_bot_id: botId,
    query_text: question,
    limit,
    mode: mode === "rerank" ? "hybrid" : mode,
    ...(mode === "rerank" ? { rerank: true } : {}),
    ...(["hybrid", "rerank"].includes(mode) && weight !== "" ? { dense_weight: Number(weight) } : {}),
    ...(confidence !== "" ? { min_confidence: Number(confidence) } : {}),
    ...(byDocument ? { group_by_document: true } : {}),
    ...(distinct ? { distinct: true } : {}),
    ...(filter.value ? { filter: filter.value } : {}),
  });

  const search = useAction(async () => {
    running.current?.abort();
    running.current = new AbortController();
    const { signal } = running.current;
    setFilterErrors([]);
    const query = new URLSearchParams({ bot: botId, q: question, ...(filterText.trim() ? { filter: filterText } : {}) });
    history.replaceState(null, "", `#/search?${query}`);
    const found = await Promise.all(
      modes.map((mode) =>
        post("/search/query", bodyOf(mode), { signal }).then(
          (answer) => ({ mode, answer, body: bodyOf(mode) }),
          (error) => {
            if (error.name === "AbortError") throw error;
            return { mode, error, body: bodyOf(mode) };
          },
        ),
      ),
    );
    const ofFilter = found[0]?.error ? serverErrors(found[0].error, filterText, filter.places) : [];
    setFilterErrors(ofFilter);
    setAnswers(ofFilter.length ? null : { question, botId, found });
  });
  const ready = question.trim() && modes.length && !filter.errors.length;
  const submit = (event) => {
    event.preventDefault();
    if (ready) search.run();
  };
  useEffect(() => {
    if (route.query.q && ready) search.run();
  }, []);
  const toggle = (mode) => setModes(MODES.filter((one) => (one === mode) !== modes.includes(one)));

  return html`<header class="page"><h1>${t("nav.search")}</h1><p>${t("search.what")}</p></header>
    <form class="bench panel" onSubmit=${submit}>
      <div class="ask">
        <${Field} label=${t("bot")}><${BotSelect} bots=${bots} chosen=${botId} onChoose=${(id) => (chooseBot(id), setBotId(id))} /><//>
        <${Field} label=${t("question")} wide>
          <input type="search" data-first value=${question} placeholder=${t("question.example")} maxlength="8192"
            onInput=${(event) => setQuestion(event.target.value)} /><//>
        <button class="primary" disabled=${!ready || search.busy}>${search.busy ? t("searching") : t("search")}</button>
      </div>
      <details class="options" open=${Boolean(filterText) || undefined}>
        <summary>${t("options")}</summary>
        <div class="option-grid">
          <fieldset><legend>${t("modes")}</legend>${MODES.map(
            (mode) => html`<label class="check"><input type="checkbox" checked=${modes.includes(mode)} onChange=${() => toggle(mode)} />${t(`mode.${mode}`)}</label>`,
          )}</fieldset>
          <${Field} label=${t("results.count")}><input type="number" min="1" max="50" value=${limit}
            onInput=${(event) => setLimit(Math.min(50, Math.max(1, Number(event.target.value) || 1)))} /><//>
          <${Field} label=${t("weight")} hint=${t("weight.hint", { value: bot?.dense_weight ?? 0.3 })}>
            <input type="number" min="0" max="1" step="0.05" value=${weight} placeholder=${bot?.dense_weight ?? 0.3}
              onInput=${(event) => setWeight(event.target.value)} /><//>
          <${Field} label=${t("confidence.min")} hint=${t("confidence.hint")}>
            <input type="number" min="0" max="1" step="0.05" value=${confidence} placeholder=${bot?.min_confidence ?? "–"}
              onInput=${(event) => setConfidence(event.target.value)} /><//>
          <fieldset><legend>${t("collapse")}</legend>
            <label class="check"><input type="checkbox" checked=${byDocument} onChange=${() => setByDocument(!byDocument)} />${t("by.document")}</label>
            <label class="check"><input type="checkbox" checked=${distinct} onChange=${() => setDistinct(!distinct)} />${t("distinct")}</label>
          </fieldset>
        </div>
        <${FilterEditor} text=${filterText} rows=${5} filter=${filter} errors=${filterErrors} keys=${keys.value ?? []}
          onInput=${(text) => (setFilterErrors([]), setFilterText(text))} />
      </details>
    </form>
    <${Problem} error=${search.error} />
    ${answers ? html`<${Answers} answers=${answers} />` : !search.error && !filterErrors.length && html`<${Empty} icon="search" title=${t("search.first")}>
      <p>${t("search.first.why")}</p><//>`}`;
}

function Answers({ answers }) {
  const longest = Math.max(1, ...answers.found.map((one) => one.answer?.timings.total_ms ?? 0));
  return html`<section class="columns" style=${{ "--columns": answers.found.length }} aria-label=${t("results")} tabindex="0">
      ${answers.found.map((one) => html`<${Column} key=${one.mode} ...${one} question=${answers.question} botId=${answers.botId} longest=${longest} />`)}
    </section>
    <${Snippets} found=${answers.found} />`;
}
