// What a user of @hey-api/openapi-ts writes.
import { strict as assert } from "node:assert";
import { randomUUID } from "node:crypto";
import { createCollection, getDocument, insertDocument, patchDocumentMetadata, search } from "./hey";
import { client } from "./hey/client.gen";

client.setConfig({ baseUrl: process.env.MEMORY_URL, auth: process.env.MEMORY_KEY });
const bot = randomUUID();
const question = "경복궁은 언제 쉬나요?";

async function main(): Promise<void> {
  const created = await createCollection({
    body: { chat_bot_id: bot, bot_name: "서울 안내 봇", collection_name: `c_${bot.replaceAll("-", "")}` },
  });
  assert.equal(created.data?.chat_bot_id, bot);

  const inserted = await insertDocument({
    body: {
      document: { chat_bot_id: bot, title: "경복궁 안내", author: "안내소" },
      chunks: [{ chunk_index: 0, text: "경복궁은 화요일에 문을 닫는다." }],
    },
    throwOnError: true,
  });
  const doc_id: number = inserted.data.doc_id;

  const found = await search({
    body: { chat_bot_id: bot, query_text: question, filter: { type: "eq", key: "author", value: "안내소" } },
  });
  assert.deepEqual(found.data?.results.map((result) => result.document.title), ["경복궁 안내"]);

  const patched = await patchDocumentMetadata({
    path: { doc_id },
    body: { chat_bot_id: bot, metadata_updates: { author: "문화재청", reviewed: true } },
  });
  assert.equal(patched.data?.status, "success");
  const stored = await getDocument({ path: { doc_id }, query: { chat_bot_id: bot } });
  assert.equal(stored.data?.document.title, "경복궁 안내");
  assert.equal(stored.data?.document.author, "문화재청");
  assert.deepEqual(stored.data?.document.metadata, { reviewed: true });

  const { error } = await search({ body: { chat_bot_id: randomUUID(), query_text: question } });
  assert.ok(error);
  const code: string = error.code;
  assert.equal(code, "bot_not_found");
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
