// What a user of OpenAI's npm client writes. It asks for base64 if nothing is said, and takes whatever comes for it.
import { strict as assert } from "node:assert";
import OpenAI from "openai";

const openai = new OpenAI({
  baseURL: `${process.env.MEMORY_URL}/v1`,
  apiKey: process.env.MEMORY_KEY,
  maxRetries: 0,
});
const input = ["광화문은 경복궁의 남쪽 정문이다.", "경복궁은 화요일에 문을 닫는다."];

async function main(): Promise<void> {
  const models = await openai.models.list();
  const model = models.data[0].id;
  assert.equal((await openai.models.retrieve(model)).id, model);

  const encoded = await openai.embeddings.create({ model, input });
  const plain = await openai.embeddings.create({ model, input, encoding_format: "float" });
  assert.equal(encoded.data.length, 2);
  for (const [index, one] of encoded.data.entries()) {
    assert.deepEqual(Array.from(one.embedding), Array.from(new Float32Array(plain.data[index].embedding)));
    const length = Math.hypot(...one.embedding);
    assert.ok(Math.abs(length - 1) < 1e-3, `a vector of length ${length}`);
  }

  await assert.rejects(openai.embeddings.create({ model: "text-embedding-3-small", input }), (error: unknown) => {
    assert.ok(error instanceof OpenAI.NotFoundError);
    assert.equal(error.code, "model_not_found");
    assert.match(error.message, /^404 This server runs /);
    return true;
  });
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
