// Saved questions of each bot, with the passage that should come. They are kept in this browser, without any key.

import { post } from "./api.js";

export const MODES = ["dense", "lexical", "hybrid"];
const LIMIT = 10;
const AT_ONCE = 4;
const NAME = "console.questions.";

// {questions: [{question, passage}], runs: [{at, ranks: {question: {mode: rank}}}]}; the newest run is the first.
export function saved(botId) {
  try {
    const found = JSON.parse(localStorage.getItem(NAME + botId));
    if (Array.isArray(found?.questions) && Array.isArray(found.runs)) return found;
  } catch {
    // What another program has stored under this name counts as nothing.
  }
  return { questions: [], runs: [] };
}

export function save(botId, content) {
  if (content.questions.length || content.runs.length) localStorage.setItem(NAME + botId, JSON.stringify(content));
  else localStorage.removeItem(NAME + botId);
}

export function addQuestion(botId, question, passage) {
  const content = saved(botId);
  const others = content.questions.filter((one) => one.question !== question);
  save(botId, { ...content, questions: [...others, { question, passage }] });
}

// As job tune and `python -m app.cli tune` read them: a JSON object in each line.
export const asLines = (questions) => questions.map((one) => `${JSON.stringify(one)}\n`).join("");

// {questions, wrong}: wrong has the numbers of the lines that are no question with a passage.
export function fromLines(text) {
  const questions = [];
  const wrong = [];
  for (const [at, line] of text.replace(/^\ufeff/, "").split(/\r?\n/).entries()) {
    if (!line.trim()) continue;
    try {
      const { question, passage } = JSON.parse(line);
      if (typeof question !== "string" || typeof passage !== "string" || !question.trim() || !passage.trim()) throw new SyntaxError();
      questions.push({ question, passage });
    } catch {
      wrong.push(at + 1);
    }
  }
  return { questions, wrong };
}

const plain = (text) => text.normalize("NFC").replace(/\s+/g, " ").trim().toLowerCase();

// The place of the passage among the first LIMIT results of each mode; null if it is not there.
async function rank(botId, one, mode, signal) {
  const answer = await post("/search/query", { chat_bot_id: botId, query_text: one.question, mode, limit: LIMIT }, { signal });
  const at = answer.results.findIndex((result) => plain(result.chunk_text).includes(plain(one.passage)));
  return at < 0 ? null : at + 1;
}

// Asks all questions in all modes. Modes that the bot cannot search in are left out. Calls `progress` with the share that is done.
export async function run(botId, questions, progress, signal) {
  const ranks = Object.fromEntries(questions.map((one) => [one.question, {}]));
  const left = questions.flatMap((one) => MODES.map((mode) => ({ one, mode })));
  const total = left.length;
  const unsupported = new Set();
  let done = 0;
  const take = async () => {
    for (let next = left.shift(); next; next = left.shift()) {
      if (!unsupported.has(next.mode)) {
        try {
          ranks[next.one.question][next.mode] = await rank(botId, next.one, next.mode, signal);
        } catch (error) {
          if (error.code !== "unsupported_mode") throw error;
          unsupported.add(next.mode);
        }
      }
      progress(++done / total);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, take));
  return { at: new Date().toISOString(), ranks };
}

// Share of the questions whose passage was among the first `depth` results; null if the run has none of them.
export function recall(run, questions, mode, depth) {
  const ranks = questions.map((one) => run?.ranks[one.question]?.[mode]).filter((one) => one !== undefined);
  return ranks.length ? ranks.filter((one) => one !== null && one <= depth).length / ranks.length : null;
}
