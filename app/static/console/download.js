// Files that the page gives to the browser.

import { useState, html } from "./ui.js";
import { file } from "./api.js";
import { t } from "./i18n.js";

export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// An export that is cut off ends in an error, and nothing is saved.
export function ExportButton({ bot, onError }) {
  const [size, setSize] = useState(null);
  const start = async () => {
    setSize(0);
    onError(null);
    try {
      const blob = await file(`/collection/${bot.chat_bot_id}/export`, { gzip: true }, setSize);
      download(blob, `${bot.chat_bot_id}.ndjson.gz`);
    } catch (error) {
      onError(error);
    } finally {
      setSize(null);
    }
  };
  const text = size === null ? t("export") : t("export.running", { size: (size / (1 << 20)).toFixed(1) });
  return html`<button type="button" disabled=${size !== null} title=${t("export.what")} onClick=${start}>${text}</button>`;
}
