// Jobs: what is running, what came of it, and starting one.

import { BotSelect, Dialog, Empty, Field, Icon, Loading, Problem, html, useAction, useLoaded, useState } from "./ui.js";
import { allBots, call, get, post } from "./api.js";
import { decimal, number, t, time } from "./i18n.js";

const KINDS = ["verify", "repair", "rebuild", "reembed", "reindex", "tune"];
const FOR_ONE_BOT = ["rebuild", "tune"];
const SECONDS = 2;

export function JobsView({ route, caller }) {
  const bots = useLoaded(() => allBots(), []);
  const jobs = useLoaded((signal) => get("/jobs", { limit: 100 }, { signal }), [], SECONDS);
  const [starting, setStarting] = useState(false);
  const [open, setOpen] = useState(route.ids[0] ?? null);
  const cancelling = useAction(async (id) => {
    await call("DELETE", `/jobs/${id}`);
    jobs.reload();
  });
  const mayWrite = caller.rank >= 1;
  const names = Object.fromEntries((bots.value ?? []).map((bot) => [bot.chat_bot_id, bot.bot_name]));
  const found = jobs.value?.jobs;
  return html`<header class="page"><h1>${t("nav.jobs")}</h1><p>${t("jobs.what")}</p>
      <div class="actions">${mayWrite && bots.value?.length > 0 && html`<button class="primary" onClick=${() => setStarting(true)}><${Icon} name="plus" />${t("jobs.start")}</button>`}</div></header>
    <${Problem} error=${jobs.error ?? cancelling.error} />
    ${!found && !jobs.error && html`<${Loading} />`}
    ${found?.length === 0 && html`<${Empty} icon="jobs" title=${t("jobs.none")}><p>${t("jobs.none.why")}</p>
      ${mayWrite && bots.value?.length > 0 && html`<button class="primary" onClick=${() => setStarting(true)}>${t("jobs.start")}</button>`}<//>`}
    <div class="job-list">${found?.map((job) => html`<${Job} key=${job.job_id} job=${job} bot=${job.chat_bot_id === null ? t("all.bots") : names[job.chat_bot_id] ?? job.chat_bot_id}
      open=${open === job.job_id} onOpen=${() => setOpen(open === job.job_id ? null : job.job_id)} onCancel=${mayWrite && (() => cancelling.run(job.job_id))} />`)}</div>
    ${starting && html`<${StartJob} bots=${bots.value} caller=${caller} onClose=${(id) => (setStarting(false), id && (setOpen(id), jobs.reload()))} />`}`;
}

function Job({ job, bot, open, onOpen, onCancel }) {
  const running = job.state === "running";
  const state = running && job.cancel_requested ? "cancelling" : job.state;
  return html`<article class="panel job"><header>
      <button class="job-head" aria-expanded=${open} onClick=${onOpen}><strong>${t(`job.${job.kind}`)}</strong><span class="muted">${bot}</span></button>
      <span class=${`state ${job.state}`}>${t(`state.${state}`)}</span>
      <span class="muted nowrap">${time(job.created_at)}</span>
      ${running && onCancel && html`<button class="small-button" disabled=${job.cancel_requested} onClick=${onCancel}>${t("cancel")}</button>`}</header>
    ${running && html`<progress max=${job.total ?? 1} value=${job.total === null ? undefined : job.done} aria-label=${t(`job.${job.kind}`)}></progress>
      <p class="small">${job.total === null ? t("job.begins") : t(`unit.${job.unit}`, { done: number(job.done), total: number(job.total) })}</p>`}
    ${!running && html`<p class="small">${summary(job)}</p>`}
    ${open && html`<div class="job-result">${job.error && html`<div class="notice bad"><p>${job.error.detail}</p><code>${job.error.code}</code></div>`}
      ${job.kind === "tune" && job.result && html`<${Curve} result=${job.result} />`}
      ${job.result?.first?.length > 0 && html`<ul class="line-errors">${job.result.first.map((one) => html`<li><b>${one.kind}</b> ${one.detail}</li>`)}</ul>`}
      ${job.result?.failures?.length > 0 && html`<ul class="line-errors">${job.result.failures.map((one) => html`<li><b>${one.chat_bot_id}</b> ${one.detail}</li>`)}</ul>`}
      <p class="small"><code>${job.job_id}</code></p></div>`}
  </article>`;
}

function summary(job) {
  const result = job.result;
  if (job.state === "interrupted") return t("job.interrupted");
  if (!result) return job.error?.detail ?? "";
  if (job.kind === "verify") return result.findings ? t("job.found", { count: number(result.findings) }) : t("job.agree");
  if (job.kind === "repair") return t("job.repaired", { count: number(result.repaired), left: number(result.findings) });
  if (job.kind === "rebuild") return t("job.rebuilt", { count: number(result.chunks) });
  if (job.kind === "tune") return t("job.best", { mode: [t(`mode.${result.best.mode}`), result.best.dense_weight].filter((one) => one !== null).join(" "), recall: decimal(result.best.recall_at_1) });
  return t("job.moved", { changed: number(result.changed), bots: number(result.bots), chunks: number(result.chunks) });
}

// Recall@1 of hybrid mode over the weight of the vectors; dense and lexical mode are its ends.
function Curve({ result }) {
  const place = (one) => (one.mode === "dense" ? 1 : one.mode === "lexical" ? 0 : one.dense_weight);
  const points = result.measured.map((one) => ({ ...one, x: 40 + place(one) * 340, y: 150 - one.recall_at_1 * 130 })).sort((one, other) => one.x - other.x);
  const best = points.find((one) => one.mode === result.best.mode && one.dense_weight === result.best.dense_weight);
  const label = points.map((one) => `${t(`mode.${one.mode}`)} ${one.dense_weight ?? ""}: ${decimal(one.recall_at_1)}`).join(", ");
  return html`<figure class="curve"><svg viewBox="0 0 400 180" role="img" aria-label=${label}>
      ${[0, 0.5, 1].map((share) => html`<g><line x1="40" x2="380" y1=${150 - share * 130} y2=${150 - share * 130} /><text x="34" y=${154 - share * 130} text-anchor="end">${share}</text></g>`)}
      <polyline points=${points.map((one) => `${one.x},${one.y}`).join(" ")} />
      ${points.map((one) => html`<circle cx=${one.x} cy=${one.y} r=${one === best ? 5 : 3} class=${one === best ? "best" : ""} />`)}
      <text x="40" y="172">${t("mode.lexical")}</text><text x="380" y="172" text-anchor="end">${t("mode.dense")}</text></svg>
    <figcaption>${t("curve", { questions: number(result.questions) })}</figcaption></figure>`;
}

function StartJob({ bots, caller, onClose }) {
  const [kind, setKind] = useState("verify");
  const [botId, setBotId] = useState(bots[0].chat_bot_id);
  const [vectors, setVectors] = useState(false);
  const [apply, setApply] = useState(false);
  const [questions, setQuestions] = useState("");
  const [wrong, setWrong] = useState(null);
  const operator = caller.rank === 3;
  const everyBot = botId === "" && !FOR_ONE_BOT.includes(kind);
  const starting = useAction(async () => {
    const body = { kind, ...(everyBot ? {} : { chat_bot_id: botId || bots[0].chat_bot_id }) };
    if (vectors && ["verify", "repair"].includes(kind)) body.vectors = true;
    if (kind === "tune") {
      const lines = questions.split("\n").map((line, at) => [line.trim(), at + 1]).filter(([line]) => line);
      body.questions = [];
      for (const [line, at] of lines) {
        try {
          body.questions.push(JSON.parse(line));
        } catch {
          setWrong(t("questions.line", { line: at }));
          return;
        }
      }
      body.apply = apply;
    }
    const job = await post("/jobs", body);
    onClose(job.job_id);
  });
  return html`<${Dialog} title=${t("jobs.start")} onClose=${() => onClose()} onSubmit=${() => (setWrong(null), starting.run())}
    footer=${html`<button type="button" onClick=${() => onClose()}>${t("cancel")}</button><button class="primary" disabled=${starting.busy || (kind === "tune" && !questions.trim())}>${t("start")}</button>`}>
    <${Field} label=${t("kind")} hint=${t(`job.${kind}.what`)} wide><select autofocus onChange=${(event) => setKind(event.target.value)}>${KINDS.map((one) => html`<option value=${one} selected=${one === kind}>${t(`job.${one}`)}</option>`)}</select><//>
    <${Field} label=${t("bot")} wide><${BotSelect} bots=${operator && !FOR_ONE_BOT.includes(kind) ? [{ chat_bot_id: "", bot_name: t("all.bots") }, ...bots] : bots} chosen=${botId} onChoose=${setBotId} /><//>
    ${["verify", "repair"].includes(kind) && html`<label class="check"><input type="checkbox" checked=${vectors} onChange=${() => setVectors(!vectors)} />${t("job.vectors")}</label>`}
    ${kind === "tune" && html`<${Field} label=${t("questions")} hint=${t("questions.hint")} error=${wrong} wide>
        <textarea class="code" rows="6" spellcheck=${false} value=${questions} placeholder=${'{"question": "경복궁은 언제 쉬나요?", "passage": "화요일에 문을 닫는다"}'} onInput=${(event) => setQuestions(event.target.value)}></textarea><//>
      <label class="check"><input type="checkbox" checked=${apply} onChange=${() => setApply(!apply)} />${t("job.apply")}</label>`}
    <${Problem} error=${starting.error} />
  <//>`;
}
