// The form for the API key, and the list of the keyboard's keys.

import { Dialog, Field, Problem, html, useAction, useState } from "./ui.js";
import { t } from "./i18n.js";

export function KeyForm({ onKey }) {
  const [key, setKey] = useState("");
  const entering = useAction(() => onKey(key.trim()));
  const submit = (event) => {
    event.preventDefault();
    entering.run();
  };
  return html`<main class="entry-card">
    <img src="console/assets/icon.svg" alt="" width="48" height="48" />
    <h1>${t("title")}</h1>
    <p>${t("key.why")}</p>
    <form onSubmit=${submit}>
      <${Field} label=${t("key.label")}>
        <input type="password" autocomplete="off" data-first value=${key} required placeholder="cm_…"
          onInput=${(event) => setKey(event.target.value)} />
      <//>
      <${Problem} error=${entering.error} />
      <button class="primary" disabled=${entering.busy}>${t("key.enter")}</button>
    </form>
    <p class="small">${t("key.memory")}</p>
    <pre class="code-block"><code>python -m app.cli keys create --account NAME --scope write</code></pre>
  </main>`;
}

export function HelpDialog({ views, onClose }) {
  const rows = [
    ["/", t("help.first")],
    ...views.map((view) => [`g ${view[0]}`, t("help.go", { view: t(`nav.${view}`) })]),
    ["n", t("help.new")],
    ["t", t("help.theme")],
    ["Esc", t("help.escape")],
    ["?", t("help.this")],
  ];
  return html`<${Dialog} title=${t("help.title")} onClose=${onClose}>
    <table class="plain-table"><tbody>${rows.map(
      ([keys, text]) => html`<tr><td>${keys.split(" ").map((key) => html`<kbd>${key}</kbd> `)}</td><td>${text}</td></tr>`,
    )}</tbody></table>
  <//>`;
}
