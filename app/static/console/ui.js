// Parts that all views share.

import { html, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";
import { allBots } from "./api.js";
import { number, t } from "./i18n.js";

export { html, useEffect, useMemo, useRef, useState } from "./vendor/preact-htm.js";

const PATHS = {
  search: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13ZM15.5 15.5 20 20",
  bots: "M5 9.5h14v9H5zM12 9.5V5.5M12 5.5h.01M9.5 13.5v1.5M14.5 13.5v1.5",
  questions: "M5 6h2M5 12h2M5 18h2M10.5 6H19M10.5 12H19M10.5 18H19",
  documents: "M7 4h7l4 4v12H7zM14 4v4h4M10 12h5M10 15.5h5",
  health: "M4 12h3.5l2.5-6 4 12 2.5-6H20",
  jobs: "M12 7v5l3 2M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16Z",
  keys: "M14.5 5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9ZM11.3 12.7 5 19v1h3v-2h2v-2",
  close: "M6 6l12 12M18 6 6 18",
  plus: "M12 5v14M5 12h14",
  trash: "M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12",
  edit: "M5 19h3L18.5 8.5l-3-3L5 16z",
  copy: "M9 9h10v10H9zM15 9V5H5v10h4",
  sun: "M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7ZM12 3.5v2M12 18.5v2M3.5 12h2M18.5 12h2M6 6l1.4 1.4M16.6 16.6 18 18M18 6l-1.4 1.4M7.4 16.6 6 18",
  moon: "M19 14.5A7.5 7.5 0 0 1 9.5 5 7.5 7.5 0 1 0 19 14.5Z",
  help: "M9.2 9.5a2.8 2.8 0 1 1 4 2.5c-.8.4-1.2 1-1.2 2M12 17v.01M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16Z",
  upload: "M12 16V6M8 10l4-4 4 4M5 19h14",
  exit: "M14 8V5H5v14h9v-3M10 12h10M17 9l3 3-3 3",
};

export const Icon = ({ name }) => html`
  <svg class="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" stroke-linecap="round"
    stroke-linejoin="round" aria-hidden="true"><path d=${PATHS[name]} /></svg>`;

export function Field({ label, hint, error, children, wide }) {
  return html`<label class=${`field${wide ? " wide" : ""}`}>
    <span class="label">${label}</span>${children}
    ${hint && html`<span class="hint">${hint}</span>`}
    ${error && html`<span class="problem" role="alert">${error}</span>`}
  </label>`;
}

export function Problem({ error }) {
  if (!error) return null;
  const text = error.status === 0 ? t("error.unreachable") : error.message;
  const locations = (error.locations ?? []).filter((one) => !text.includes(one.msg) || error.locations.length > 1);
  return html`<div class="notice bad" role="alert">
    <p>${text}</p>
    ${locations.length > 0 &&
    html`<ul>${locations.map((one) => html`<li><code>${one.loc}</code> ${one.msg}</li>`)}</ul>`}
    ${error.requestId && html`<p class="small">${t("error.request")} <code>${error.requestId}</code></p>`}
  </div>`;
}

export const Empty = ({ icon, title, children }) => html`<div class="empty">
  <${Icon} name=${icon} /><h2>${title}</h2><div class="empty-body">${children}</div>
</div>`;

export const Loading = () => html`<p class="loading" role="status"><span class="spinner" aria-hidden="true"></span>${t("loading")}</p>`;

// A modal window. The browser keeps the focus in it and closes it with Escape.
export function Dialog({ title, onClose, children, footer, onSubmit }) {
  const element = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    element.current.showModal();
    return () => before?.focus?.();
  }, []);
  const submit = (event) => {
    event.preventDefault();
    onSubmit?.();
  };
  return html`<dialog ref=${element} aria-label=${title} onCancel=${(event) => (event.preventDefault(), onClose())}>
    <form onSubmit=${submit}>
      <header><h2>${title}</h2>
        <button type="button" class="plain" aria-label=${t("close")} onClick=${onClose}><${Icon} name="close" /></button>
      </header>
      <div class="dialog-body">${children}</div>
      ${footer && html`<footer>${footer}</footer>`}
    </form>
  </dialog>`;
}

// Runs an action of a dialog: {busy, error, run}.
export function useAction(action) {
  const [state, setState] = useState({ busy: false, error: null });
  const run = async (...values) => {
    setState({ busy: true, error: null });
    try {
      await action(...values);
      setState({ busy: false, error: null });
    } catch (error) {
      if (error.name === "AbortError") return;
      setState({ busy: false, error });
    }
  };
  return { ...state, run };
}

// What `load` returns: {value, error, reload}. It is called again when one of `inputs` changes.
export function useLoaded(load, inputs, everySeconds = 0) {
  const [state, setState] = useState({ value: null, error: null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    let over = false;
    let timer = null;
    const control = new AbortController();
    const one = async () => {
      try {
        const value = await load(control.signal);
        if (!over) setState({ value, error: null });
      } catch (error) {
        if (!over && error.name !== "AbortError") setState((old) => ({ value: old.value, error }));
      }
      if (!over && everySeconds) timer = setTimeout(one, everySeconds * 1000);
    };
    one();
    return () => {
      over = true;
      clearTimeout(timer);
      control.abort();
    };
  }, [...inputs, round]);
  return { ...state, reload: () => setRound((number) => number + 1) };
}

export function CopyButton({ text }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  };
  return html`<button type="button" class="small-button" onClick=${copy}><${Icon} name="copy" />
    <span aria-live="polite">${copied ? t("copied") : t("copy")}</span></button>`;
}

export function Tabs({ names, chosen, onChoose, label }) {
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = names[(names.indexOf(chosen) + step + names.length) % names.length];
    onChoose(next);
    event.currentTarget.querySelectorAll("[role=tab]")[names.indexOf(next)].focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${move}>
    ${names.map(
      (name) => html`<button type="button" role="tab" aria-selected=${name === chosen} tabindex=${name === chosen ? 0 : -1}
        onClick=${() => onChoose(name)}>${name}</button>`,
    )}
  </div>`;
}

// A page of a long list: at most `size` rows are in the document.
export function Pager({ from, to, total, onPrevious, onNext }) {
  return html`<nav class="pager" aria-label=${t("pages")}>
    <span>${total === null || total === undefined ? t("range", { from, to }) : t("range.of", { from, to, total })}</span>
    <button type="button" class="small-button" disabled=${!onPrevious} onClick=${onPrevious}>${t("previous")}</button>
    <button type="button" class="small-button" disabled=${!onNext} onClick=${onNext}>${t("next")}</button>
  </nav>`;
}

// The same for a list that is here as a whole.
export const ListPager = ({ page, size, total, onPage }) =>
  total > size &&
  html`<${Pager} from=${page * size + 1} to=${Math.min((page + 1) * size, total)} total=${number(total)}
    onPrevious=${page > 0 && (() => onPage(page - 1))} onNext=${(page + 1) * size < total && (() => onPage(page + 1))} />`;

// A view of some of the bots: `children` makes it from all of them. Where there is none, it leads to the registration.
export function WithBots({ title, children }) {
  const bots = useLoaded(() => allBots(), []);
  if (bots.value?.length) return children(bots.value);
  return html`<h1>${title}</h1><${Problem} error=${bots.error} />
    ${!bots.value && !bots.error && html`<${Loading} />`}
    ${bots.value && html`<${Empty} icon="bots" title=${t("bots.none")}><p>${t("bots.none.why")}</p>
      <a class="button primary" href="#/bots?new=1">${t("bots.register")}</a><//>`}`;
}

const MOST_OPTIONS = 100;

// Of more bots than MOST_OPTIONS those are offered whose name has what is typed.
export function BotSelect({ bots, chosen, onChoose }) {
  const [wanted, setWanted] = useState("");
  const many = bots.length > MOST_OPTIONS;
  const options = useMemo(() => {
    const found = many ? bots.filter((bot) => bot.bot_name.toLowerCase().includes(wanted.toLowerCase())).slice(0, MOST_OPTIONS) : bots;
    const own = bots.find((bot) => bot.chat_bot_id === chosen);
    return found.includes(own) || !own ? found : [own, ...found];
  }, [bots, chosen, wanted]);
  const select = html`<select aria-label=${many ? t("bot") : undefined} value=${chosen} onChange=${(event) => onChoose(event.target.value)}>
    ${options.map((bot) => html`<option key=${bot.chat_bot_id} value=${bot.chat_bot_id} selected=${bot.chat_bot_id === chosen}>${bot.bot_name}</option>`)}</select>`;
  if (!many) return select;
  return html`<span class="bot-select"><input type="search" aria-label=${t("bot.find")} placeholder=${t("bot.find")} value=${wanted} onInput=${(event) => setWanted(event.target.value)} />${select}</span>`;
}

// A text area for JSON that marks the line of an error. `errors`: [{line, column, message, start, end}].
export function JsonArea({ value, onInput, errors, rows, label, placeholder }) {
  const area = useRef(null);
  const back = useRef(null);
  const bad = new Set(errors.map((error) => error.line));
  const scrolled = () => {
    back.current.scrollTop = area.current.scrollTop;
    back.current.scrollLeft = area.current.scrollLeft;
  };
  const go = (error) => {
    area.current.focus();
    area.current.setSelectionRange(error.start, Math.max(error.end, error.start + 1));
  };
  return html`<div class="json">
    <div class="json-box">
      <div class="json-back code" ref=${back} aria-hidden="true">${value.split("\n").map(
        (line, at) => html`<div class=${bad.has(at + 1) ? "bad-line" : ""}>${line || "\u200b"}</div>`,
      )}</div>
      <textarea ref=${area} class="code" rows=${rows} spellcheck=${false} autocapitalize="off" aria-label=${label}
        aria-invalid=${errors.length > 0} placeholder=${placeholder} value=${value} onScroll=${scrolled}
        onInput=${(event) => onInput(event.target.value)}></textarea>
    </div>
    <div role="alert">${errors.map(
      (error) => html`<button type="button" class="json-error" onClick=${() => go(error)}>
        <b>${t("line", { line: error.line, column: error.column })}</b> ${error.message}</button>`,
    )}</div>
  </div>`;
}
