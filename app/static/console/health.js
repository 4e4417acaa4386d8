// Stores and embedder, and what the metrics say about the last minutes.

import { Loading, Problem, html, useEffect, useLoaded, useRef } from "./ui.js";
import { get } from "./api.js";
import { milliseconds, number, t } from "./i18n.js";
import { measure, parse } from "./metrics.js";
import { RecentErrors } from "./errors.js";

const SECONDS = 5;
const KEPT = 60;

export function HealthView({ caller }) {
  const health = useLoaded((signal) => get("/health", null, { signal, accept: [503] }), [], SECONDS);
  const history = useHistory(health.value);
  const metrics = useMetrics(caller.rank >= 2);
  const status = health.error ? "unreachable" : health.value?.status;
  return html`<header class="page"><h1>${t("nav.health")}</h1><p>${t("health.what")}</p></header>
    <${Problem} error=${health.error} />
    ${!status && html`<${Loading} />`}
    ${status && html`<p class=${`overall ${status}`} role="status"><i class="dot"></i>${t(`health.${status}`)}</p>`}
    ${health.value && html`<div class="cards">${Object.entries(health.value.dependencies).map(([name, one]) => html`<article class="panel card">
        <header><h2>${t(`store.${name}`)}</h2><span class=${`state ${one.status}`}>${t(`dependency.${one.status}`)}</span></header>
        <p class="big">${milliseconds(one.latency_ms)}</p><${Line} values=${history[name] ?? []} label=${t("latency.of", { name: t(`store.${name}`) })} /></article>`)}</div>`}
    <h2 class="section">${t("health.traffic")}</h2>
    ${caller.rank < 2 ? html`<p class="muted">${t("health.admin")}</p>` : html`<${Problem} error=${metrics.error} />
      ${metrics.now ? html`<div class="cards">
        <${Card} title=${t("rate")} value=${metrics.now.rate === null ? "–" : t("per.second", { value: metrics.now.rate.toFixed(1) })} values=${metrics.lines.rate} />
        <${Card} title=${t("p50")} value=${metrics.now.p50 === null ? "–" : milliseconds(metrics.now.p50 * 1000)} values=${metrics.lines.p50} />
        <${Card} title=${t("p95")} value=${metrics.now.p95 === null ? "–" : milliseconds(metrics.now.p95 * 1000)} values=${metrics.lines.p95} />
        <${Card} title=${t("errors.5xx")} value=${number(metrics.now.errors)} values=${metrics.lines.errors} />
        <${Card} title=${t("sagas")} value=${number(metrics.now.sagas)} values=${metrics.lines.sagas} />
        <${Card} title=${t("vector_gc")} value=${number(metrics.now.garbage)} values=${metrics.lines.garbage} /></div>
        <p class="small">${t("health.own")}</p>` : !metrics.error && html`<${Loading} />`}`}
    ${caller.rank >= 3 && html`<${RecentErrors} />`}`;
}

const Card = ({ title, value, values }) => html`<article class="panel card"><header><h3>${title}</h3></header><p class="big">${value}</p><${Line} values=${values} label=${title} /></article>`;

function keep(lines, name, value) {
  lines[name] = [...(lines[name] ?? []), value].slice(-KEPT);
}

function useHistory(report) {
  const kept = useRef({});
  useEffect(() => {
    for (const [name, one] of Object.entries(report?.dependencies ?? {})) keep(kept.current, name, one.latency_ms);
  }, [report]);
  return kept.current;
}

function useMetrics(allowed) {
  const last = useRef(null);
  const lines = useRef({});
  const load = async (signal) => {
    if (!allowed) return null;
    const sample = parse(await get("/metrics", null, { text: true, signal }), performance.now());
    const now = measure(sample, last.current);
    last.current = sample;
    for (const [name, value] of Object.entries(now)) keep(lines.current, name, value);
    return now;
  };
  const { value, error } = useLoaded(load, [allowed], allowed ? SECONDS : 0);
  return { now: value, lines: lines.current, error };
}

function Line({ values, label }) {
  const known = (values ?? []).filter((value) => value !== null);
  const most = Math.max(...known, 1e-9);
  const first = KEPT - (values ?? []).length;
  const points = (values ?? []).map((value, at) => (value === null ? null : `${((first + at) / (KEPT - 1)) * 200},${38 - (value / most) * 34}`)).filter(Boolean);
  return html`<svg class="line" viewBox="0 0 200 40" preserveAspectRatio="none" role="img" aria-label=${label}>
    <line x1="0" x2="200" y1="38" y2="38" />${points.length > 1 && html`<polyline points=${points.join(" ")} />`}</svg>`;
}
