// Calls of the server's public API. The key is held in this module's memory and nowhere else.

// Each includes those before it; `rank` is the place in this list.
export const SCOPES = ["read", "write", "admin", "operator"];

let key = null;
let onRefused = () => {};

// Where the server is: behind a proxy its paths may have a prefix.
export const base = new URL(".", new URL("../..", import.meta.url)).href.replace(/\/$/, "");
export const keysRequired = document.documentElement.dataset.keys === "required";

export function setKey(value, refused) {
  key = value;
  if (refused) onRefused = refused;
}

export class ApiError extends Error {
  // `problem`: the body of the answer; null where none came.
  constructor(status, problem, text) {
    super(problem?.detail || text);
    this.status = status;
    this.code = problem?.code || "unreachable";
    this.locations = problem?.errors || [];
    this.requestId = problem?.request_id || null;
  }
}

// `content`: a file as the body, with `headers` of its own.
async function send(method, path, { query, body, content, headers: own, signal }) {
  const url = new URL(base + path);
  for (const [name, value] of Object.entries(query || {})) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.set(name, value);
  }
  const headers = { ...own };
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(url, { method, headers, body: body === undefined ? content : JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, null, "");
  }
}

// Returns the body of the answer. Throws ApiError. `accept`: statuses that are no error.
export async function call(method, path, { accept = [], text = false, ...request } = {}) {
  const answer = await send(method, path, request);
  if (text && answer.ok) return answer.text();
  const received = await answer.json().catch(() => null);
  if (answer.ok || accept.includes(answer.status)) return received;
  const error = new ApiError(answer.status, received, answer.statusText);
  if (answer.status === 401) onRefused(error);
  throw error;
}

// Returns the body as a Blob. Throws ApiError, also when the body is cut off. `progress` is told the bytes that have come.
export async function file(path, query, progress) {
  const answer = await send("GET", path, { query });
  if (!answer.ok) {
    const error = new ApiError(answer.status, await answer.json().catch(() => null), answer.statusText);
    if (answer.status === 401) onRefused(error);
    throw error;
  }
  const pieces = [];
  let size = 0;
  try {
    const reader = answer.body.getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
      pieces.push(piece.value);
      progress((size += piece.value.length));
    }
  } catch {
    throw new ApiError(0, null, "");
  }
  return new Blob(pieces, { type: answer.headers.get("Content-Type") });
}

export const get = (path, query, options) => call("GET", path, { query, ...options });
export const post = (path, body, options) => call("POST", path, { body, ...options });

// The bot that was chosen last, in any view.
let lastBot = null;

export function chosenBot(bots, wanted) {
  const found = [wanted, lastBot].map((id) => bots.find((bot) => bot.chat_bot_id === id)).find(Boolean) ?? bots[0];
  lastBot = found.chat_bot_id;
  return found;
}

export function chooseBot(id) {
  lastBot = id;
}

// All bots, without counts: two calls for 2,000 bots.
export async function allBots() {
  const bots = [];
  let cursor = null;
  do {
    const page = await get("/collection/list", { limit: 1000, cursor });
    bots.push(...page.bots);
    cursor = page.next_cursor;
  } while (cursor);
  return bots;
}
