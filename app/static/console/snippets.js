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

export const LANGUAGES = ["curl", "Python", "JavaScript"];

export function snippet(language, url, body, withKey) {
  if (language === "curl") {
    const header = withKey ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
    return `curl -s ${url}${header} \\\n  -H 'Content-Type: application/json' \\\n  -d ${quoted(JSON.stringify(body, null, 2))}`;
  }
  if (language === "Python") {
    const key = withKey ? `    headers={"Authorization": f"Bearer {os.environ['API_KEY']}"},\n` : "";
    return `${withKey ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.post(\n    ${JSON.stringify(url)},\n${key}    json=${python(body, "    ")},\n)\nanswer.raise_for_status()\nfor result in answer.json()["results"]:\n    print(result["score"], result["chunk_text"])\n`;
  }
  const key = withKey ? `\n    Authorization: \`Bearer \${process.env.API_KEY}\`,` : "";
  return `const answer = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n  headers: {${key}\n    "Content-Type": "application/json",\n  },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nif (!answer.ok) throw new Error((await answer.json()).detail);\nfor (const result of (await answer.json()).results) {\n  console.log(result.score, result.chunk_text);\n}\n`;
}
