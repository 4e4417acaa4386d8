// The frame: navigation by the part of the address after #, keys of the keyboard, language, colours, the API key.

import { html, render } from "./vendor/preact-htm.js";
import { Icon, useEffect, useRef, useState } from "./ui.js";
import { SCOPES, get, keysRequired, setKey } from "./api.js";
import { currentLanguage, languages, setLanguage, t } from "./i18n.js";
import { HelpDialog, KeyForm } from "./entry.js";
import { SearchView } from "./search.js";
import { QuestionsView } from "./questions.js";
import { BotsView } from "./bots.js";
import { DocumentsView } from "./documents.js";
import { HealthView } from "./health.js";
import { JobsView } from "./jobs.js";
import { KeysView } from "./keys.js";

const VIEWS = {
  search: SearchView,
  questions: QuestionsView,
  bots: BotsView,
  documents: DocumentsView,
  jobs: JobsView,
  health: HealthView,
  keys: KeysView,
};

function readRoute() {
  const whole = location.hash.replace(/^#\/?/, "");
  const path = whole.split("?", 1)[0];
  const query = whole.slice(path.length + 1);
  const [view, ...ids] = path.split("/").map(decodeURIComponent);
  return { view: Object.hasOwn(VIEWS, view) ? view : "search", ids, query: Object.fromEntries(new URLSearchParams(query)) };
}

function App() {
  const [caller, setCaller] = useState(null);
  const [language, chooseLanguage] = useState(currentLanguage());
  const [theme, setTheme] = useState(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const [route, setRoute] = useState(readRoute());
  const [help, setHelp] = useState(false);
  const main = useRef(null);

  useEffect(() => {
    document.documentElement.dataset.theme = theme;
  }, [theme]);
  useEffect(() => {
    const changed = () => setRoute((old) => ({ ...readRoute(), visit: (old.visit ?? 0) + 1 }));
    addEventListener("hashchange", changed);
    return () => removeEventListener("hashchange", changed);
  }, []);
  useEffect(() => {
    document.querySelector(".side [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [route.view, caller]);
  useEffect(() => {
    document.title = `${t(`nav.${route.view}`)} · ${t("title")}`;
  }, [route.view, language]);

  const enter = async (key) => {
    setKey(key, () => setCaller(null));
    const own = await get("/keys/self");
    setCaller({ account: own.account_name, rank: SCOPES.indexOf(own.scope) });
  };
  useEffect(() => {
    if (!keysRequired) enter(null).catch(() => setCaller({ account: null, rank: SCOPES.length - 1 }));
  }, []);

  const views = Object.keys(VIEWS).filter((view) => view !== "keys" || (keysRequired && caller?.rank === 3));
  useEffect(() => {
    let armed = false;
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (event.target.closest?.("input, textarea, select, dialog")) return;
      if (event.key === "?") setHelp(true);
      else if (event.key === "/") {
        const field = document.querySelector("[data-first]");
        if (field) {
          event.preventDefault();
          field.focus();
        }
      } else if (event.key === "g") {
        armed = true;
        return;
      } else if (armed && views.some((view) => view[0] === event.key)) {
        location.hash = `#/${views.find((view) => view[0] === event.key)}`;
      } else if (event.key === "n") {
        document.querySelector("main .page .primary")?.click();
      } else if (event.key === "t") setTheme((now) => (now === "dark" ? "light" : "dark"));
      armed = false;
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, [views.join()]);

  const speak = (chosen) => {
    setLanguage(chosen);
    chooseLanguage(chosen);
  };
  const tools = html`<div class="tools">
    <select class="quiet" aria-label=${t("language")} value=${language} onChange=${(event) => speak(event.target.value)}>
      ${Object.entries(languages).map(([code, name]) => html`<option value=${code} selected=${code === language}>${name}</option>`)}
    </select>
    <button type="button" class="plain" aria-label=${theme === "dark" ? t("light") : t("dark")} title="t"
      onClick=${() => setTheme(theme === "dark" ? "light" : "dark")}><${Icon} name=${theme === "dark" ? "sun" : "moon"} /></button>
    <button type="button" class="plain" aria-label=${t("help.title")} title="?" onClick=${() => setHelp(true)}><${Icon} name="help" /></button>
    ${keysRequired && caller &&
    html`<button type="button" class="plain" aria-label=${t("leave")} title=${t("leave")}
      onClick=${() => (setKey(null), setCaller(null))}><${Icon} name="exit" /></button>`}
  </div>`;
  if (!caller) {
    return html`<div class="entry"><header>${tools}</header>${keysRequired && html`<${KeyForm} onKey=${enter} />`}</div>`;
  }
  const View = views.includes(route.view) ? VIEWS[route.view] : SearchView;
  return html`<div class="frame">
    <a class="skip" href="#main" onClick=${(event) => (event.preventDefault(), main.current.focus())}>${t("skip")}</a>
    <header class="side">
      <a class="brand" href="#/search"><img src="console/assets/icon.svg" alt="" width="28" height="28" /><span>${t("title")}</span></a>
      <nav aria-label=${t("views")}>
        ${views.map(
          (view) => html`<a href=${`#/${view}`} aria-current=${view === route.view ? "page" : undefined}>
            <${Icon} name=${view} /><span>${t(`nav.${view}`)}</span></a>`,
        )}
      </nav>
      ${keysRequired &&
      html`<p class="who">${caller.account ?? t("all.accounts")}<span>${t(`scope.${SCOPES[caller.rank]}`)}</span></p>`}
      ${tools}
    </header>
    <main id="main" ref=${main} tabindex="-1"><${View} key=${route.visit} route=${route} caller=${caller} /></main>
    ${help && html`<${HelpDialog} views=${views} onClose=${() => setHelp(false)} />`}
  </div>`;
}

render(html`<${App} />`, document.getElementById("app"));
