// Saved questions: a table of the places at which their passages come, recall, and what changed since the last run.

import { BotSelect, Dialog, Empty, Field, Icon, ListPager, Problem, WithBots, html, useAction, useEffect, useRef, useState } from "./ui.js";
import { chooseBot, chosenBot } from "./api.js";
import { number, percent, t, time } from "./i18n.js";
import { MODES, addQuestion, asLines, fromLines, recall, run, save, saved } from "./saved.js";
import { download } from "./download.js";

const ROWS = 50;
const DEPTHS = [1, 5];
const KEPT_RUNS = 2;

export const QuestionsView = ({ route }) =>
  html`<${WithBots} title=${t("nav.questions")}>${(bots) => html`<${Questions} bots=${bots} route=${route} />`}<//>`;

function Questions({ bots, route }) {
  const [botId, setBotId] = useState(() => chosenBot(bots, route.query.bot).chat_bot_id);
  const [content, setContent] = useState(() => saved(botId));
  const [open, setOpen] = useState(null);
  const [page, setPage] = useState(0);
  const [share, setShare] = useState(null);
  const [wrong, setWrong] = useState([]);
  const running = useRef(null);
  useEffect(() => () => running.current?.abort(), []);
  const bot = bots.find((one) => one.chat_bot_id === botId);
  const keep = (changed) => {
    save(botId, changed);
    setContent(changed);
  };
  const choose = (id) => {
    chooseBot(id);
    setBotId(id);
    setContent(saved(id));
    setPage(0);
  };
  const asking = useAction(async () => {
    running.current = new AbortController();
    try {
      setShare(0);
      const found = await run(botId, content.questions, setShare, running.current.signal);
      keep({ ...content, runs: [found, ...content.runs].slice(0, KEPT_RUNS) });
    } finally {
      setShare(null);
    }
  });
  const load = async (event) => {
    const file = event.target.files[0];
    event.target.value = "";
    if (!file) return;
    const found = fromLines(await file.text());
    setWrong(found.wrong);
    for (const one of found.questions) addQuestion(botId, one.question, one.passage);
    setContent(saved(botId));
  };
  const { questions, runs } = content;
  const [last, before] = runs;
  const shown = questions.slice(page * ROWS, (page + 1) * ROWS);
  return html`<header class="page"><h1>${t("nav.questions")}</h1><p>${t("questions.what")}</p>
      <div class="actions"><button class="primary" onClick=${() => setOpen({ question: "", passage: "" })}><${Icon} name="plus" />${t("questions.add")}</button></div></header>
    <div class="bar-line"><${Field} label=${t("bot")}><${BotSelect} bots=${bots} chosen=${botId} onChoose=${choose} /><//>
      <button disabled=${!questions.length || asking.busy} onClick=${asking.run}>${asking.busy ? t("questions.running") : t("questions.run")}</button>
      <label class="button file-button">${t("questions.load")}<input type="file" class="hidden" accept=".jsonl,.ndjson,.txt" onChange=${load} /></label>
      ${questions.length > 0 && html`<button onClick=${() => download(new Blob([asLines(questions)]), `questions-${botId}.jsonl`)}>${t("questions.save")}</button>`}
      ${last && html`<span class="muted">${t("questions.last", { at: time(last.at) })}</span>`}</div>
    ${share !== null && html`<progress max="1" value=${share} aria-label=${t("questions.run")}></progress>`}
    <${Problem} error=${asking.error} />
    ${wrong.length > 0 && html`<p class="notice bad" role="alert">${t("questions.wrong", { lines: wrong.slice(0, 20).join(", ") })}</p>`}
    ${!questions.length && html`<${Empty} icon="questions" title=${t("questions.none")}><p>${t("questions.none.why")}</p>
      <button class="primary" onClick=${() => setOpen({ question: "", passage: "" })}>${t("questions.add")}</button><//>`}
    ${last && questions.length > 0 && html`<div class="cards recall">${MODES.map((mode) => html`<article class="panel card" key=${mode}>
        <header><h2><i class=${`dot ${mode}`}></i>${t(`mode.${mode}`)}</h2></header>
        ${DEPTHS.map((depth) => html`<div class="recall-line"><span>${t("recall", { depth })}</span><${Recall} now=${recall(last, questions, mode, depth)} before=${recall(before, questions, mode, depth)} /></div>`)}</article>`)}</div>`}
    ${questions.length > 0 && html`<div class="table-box"><table class="rows"><thead><tr><th>${t("question")}</th><th>${t("passage")}</th>
          ${MODES.map((mode) => html`<th class="right">${t(`mode.${mode}`)}</th>`)}<th><span class="hidden">${t("actions")}</span></th></tr></thead>
        <tbody>${shown.map((one) => html`<tr key=${one.question}>
          <td data-label=${t("question")}><a class="strong" href=${`#/search?bot=${botId}&q=${encodeURIComponent(one.question)}`}>${one.question}</a></td>
          <td data-label=${t("passage")}><span class="two-lines">${one.passage}</span></td>
          ${MODES.map((mode) => html`<td class="right nowrap" data-label=${t(`mode.${mode}`)}><${Place} now=${last?.ranks[one.question]?.[mode]} before=${before?.ranks[one.question]?.[mode]} /></td>`)}
          <td class="row-actions"><button class="plain" aria-label=${`${t("edit")}: ${one.question}`} onClick=${() => setOpen(one)}><${Icon} name="edit" /></button>
            <button class="plain danger" aria-label=${`${t("delete")}: ${one.question}`} onClick=${() => keep({ ...content, questions: questions.filter((other) => other !== one) })}><${Icon} name="trash" /></button></td></tr>`)}</tbody></table></div>
      <${ListPager} page=${page} size=${ROWS} total=${questions.length} onPage=${setPage} />
      <p class="small">${t("questions.kept")}</p>`}
    ${open && html`<${QuestionForm} one=${open} bot=${bot} onClose=${() => (setOpen(null), setContent(saved(botId)))} />`}`;
}

function Recall({ now, before }) {
  if (now === null) return html`<b>–</b>`;
  const change = before === null ? 0 : Math.round((now - before) * 100);
  return html`<span><b>${percent(now)}</b>${change !== 0 && html` <span class=${change > 0 ? "better" : "worse"}>${change > 0 ? "▲" : "▼"} ${Math.abs(change)}</span>`}</span>`;
}

// The place now, and the one of the run before if it was another.
function Place({ now, before }) {
  if (now === undefined) return html`<span class="muted">–</span>`;
  const shown = now === null ? html`<span class="bad-text">${t("place.none")}</span>` : number(now);
  if (before === undefined || before === now) return shown;
  const better = before === null || (now !== null && now < before);
  const text = t(better ? "place.better" : "place.worse", { before: before === null ? t("place.none") : number(before) });
  return html`${shown} <span class=${better ? "better" : "worse"} title=${text}>${better ? "▲" : "▼"}<span class="hidden">${text}</span></span>`;
}

function QuestionForm({ one, bot, onClose }) {
  const [question, setQuestion] = useState(one.question);
  const [passage, setPassage] = useState(one.passage);
  const ready = question.trim() && passage.trim();
  const submit = () => {
    if (!ready) return;
    const content = saved(bot.chat_bot_id);
    if (one.question && one.question !== question) save(bot.chat_bot_id, { ...content, questions: content.questions.filter((other) => other.question !== one.question) });
    addQuestion(bot.chat_bot_id, question.trim(), passage.trim());
    onClose();
  };
  return html`<${Dialog} title=${one.question ? t("questions.edit") : t("questions.add")} onClose=${onClose} onSubmit=${submit}
    footer=${html`<button type="button" onClick=${onClose}>${t("cancel")}</button><button class="primary" disabled=${!ready}>${t("save")}</button>`}>
    <${Field} label=${t("question")} wide><input autofocus maxlength="8192" value=${question} placeholder=${t("question.example")} onInput=${(event) => setQuestion(event.target.value)} /><//>
    <${Field} label=${t("passage")} hint=${t("passage.hint")} wide><textarea rows="4" maxlength="8192" value=${passage} onInput=${(event) => setPassage(event.target.value)}></textarea><//>
  <//>`;
}
