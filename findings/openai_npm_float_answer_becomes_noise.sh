#!/usr/bin/env bash
# openai (npm) 6.49.0 and 7.59.0, against a gateway that ignores `encoding_format` and answers floats.
#
# Guess: a client that asked for base64 and was answered a JSON array of floats takes the array, or raises.
# Seen: 6.49.0 reads the array as if it were base64's bytes: four floats become one number, 0, without an error.
#   The caller gets a vector of a quarter of the dimension. With `encoding_format: "float"` it is right. 7.59.0 takes the
#   array. So a gateway of OpenAI's embeddings must honour base64, which both versions ask for by themselves.
# Output:
#   6.49.0 asked base64 got [0]
#   6.49.0 asked float got [0.1,0.2,0.3,0.4]
#   7.59.0 asked base64 got [0.1,0.2,0.3,0.4]
#   7.59.0 asked float got [0.1,0.2,0.3,0.4]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/probe.mjs" <<'JS'
import http from "node:http";
import OpenAI from "openai";

let asked;
const gateway = http.createServer((request, response) => {
  let body = "";
  request.on("data", (part) => (body += part));
  request.on("end", () => {
    asked = JSON.parse(body).encoding_format;
    const data = [{ object: "embedding", index: 0, embedding: [0.1, 0.2, 0.3, 0.4] }];
    response.setHeader("content-type", "application/json");
    response.end(JSON.stringify({ object: "list", model: "m", data, usage: { prompt_tokens: 1, total_tokens: 1 } }));
  });
});
gateway.listen(0, "127.0.0.1", async () => {
  const client = new OpenAI({ apiKey: "none", baseURL: `http://127.0.0.1:${gateway.address().port}/v1` });
  for (const format of [undefined, "float"]) {
    const answer = await client.embeddings.create({ model: "m", input: "a", encoding_format: format });
    console.log(process.argv[2], "asked", asked, "got", JSON.stringify(answer.data[0].embedding));
  }
  gateway.close();
});
JS
for version in 6.49.0 7.59.0; do
    mkdir "$folder/$version"
    cp "$folder/probe.mjs" "$folder/$version"
    (
        cd "$folder/$version"
        npm init -y >/dev/null
        npm install --silent --no-fund --no-audit "openai@$version" >/dev/null
        node probe.mjs "$version"
    )
done | tee "$folder/out"
diff "$folder/out" - <<'EXPECTED'
6.49.0 asked base64 got [0]
6.49.0 asked float got [0.1,0.2,0.3,0.4]
7.59.0 asked base64 got [0.1,0.2,0.3,0.4]
7.59.0 asked float got [0.1,0.2,0.3,0.4]
EXPECTED
