// A call as a command or a program. Where keys are required, the key is read from the environment variable API_KEY.

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function python(value, indent) {
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const deeper = `${indent}    `;
  if (Array.isArray(value)) return value.length ? `[${value.map((item) => python(item, deeper)).join(", ")}]` : "[]";
  const members = Object.entries(value).map(([name, item]) => `${deeper}${JSON.stringify(name)}: ${python(item, deeper)},`);
  return members.length ? `{\n${members.join("\n")}\n${indent}}` : "{}";
}

export const LANGUAGES = ["curl", "Python", "JavaScript", "MCP"];

// A call of the tool that models call. It has fewer options than the API.
function mcp(base, body, header) {
  const { chat_bot_id, query_text: query, limit, mode, filter } = body;
  const call = { jsonrpc: "2.0", id: 1, method: "tools/call", params: { name: "search", arguments: { chat_bot_id, query, limit, mode, ...(filter ? { filter } : {}) } } };
  return `curl -s ${base}/mcp${header} \\\n  -H 'Content-Type: application/json' \\\n  -H 'Accept: application/json, text/event-stream' \\\n  -d ${quoted(JSON.stringify(call, null, 2))}`;
}

// `base`: where the server is.
export function snippet(language, base, body, withKey) {
  const url = `${base}/search/query`;
  const header = withKey ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
  if (language === "MCP") return mcp(base, body, header);
  if (language === "curl") {
    return `curl -s ${url}${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(body, null, 2))}`;
  }
  if (language === "Python") {
    const key = withKey ? `    headers={"Authorization": f"Bearer {os.environ['API_KEY']}"},\n` : "";
    return `${withKey ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.post(\n    ${JSON.stringify(url)},\n${key}    json=${python(body, "    ")},\n)\nanswer.raise_for_status()\nfor result in answer.json()["results"]:\n    print(result["score"], result["chunk_text"])\n`;
  }
  const key = withKey ? `\n    Authorization: \`Bearer \${process.env.API_KEY}\`,` : "";
  return `const answer = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n  headers: {${key}\n    "Content-Type": "application/json",\n  },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nif (!answer.ok) throw new Error((await answer.json()).detail);\nfor (const result of (await answer.json()).results) {\n  console.log(result.score, result.chunk_text);\n}\n`;
}
