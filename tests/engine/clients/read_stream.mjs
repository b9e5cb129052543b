// Reads a stream to its end for each name of a client for Node.js on stdin. How it ended is a line of
// JSON: {} or {"error": "what was thrown"}.
//
// NODE_PATH is not heard by modules: clients are taken from the folder that bench/install-peers.sh made.
//
//   echo openai-responses | node tests/engine/clients/read_stream.mjs .cache/bench/node-clients http://127.0.0.1:8000

import { createRequire } from "node:module";
import path from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const [folder, url] = process.argv.slice(2);
const { resolve } = createRequire(path.resolve(folder, "package.json"));
const load = (module) => import(pathToFileURL(resolve(module)));

const messages = [{ role: "user", content: "What do you see?" }];
// With RETRIES=1 they try again as they do out of the box, else not at all.
const retries = process.env.RETRIES ? {} : { maxRetries: 0 };
const place = { baseURL: `${url}/v1`, apiKey: "none", ...retries };

async function readAll(stream) {
  for await (const _ of stream);
}

async function openai() {
  const { default: OpenAI } = await load("openai");
  return new OpenAI(place);
}

async function anthropic() {
  const { default: Anthropic } = await load("@anthropic-ai/sdk");
  return new Anthropic({ ...place, baseURL: url });
}

async function langchain(useResponsesApi) {
  const { ChatOpenAI } = await load("@langchain/openai");
  const { baseURL, apiKey } = place;
  const model = new ChatOpenAI({
    model: "tiny", useResponsesApi, apiKey, ...retries, configuration: { baseURL },
  });
  return readAll(await model.stream("What do you see?"));
}

const clients = {
  "openai-chat": async () =>
    readAll(await (await openai()).chat.completions.create({ model: "tiny", messages, stream: true })),
  "openai-chat-helper": async () =>
    (await openai()).chat.completions.stream({ model: "tiny", messages }).finalChatCompletion(),
  "openai-completions": async () =>
    readAll(await (await openai()).completions.create({ model: "tiny", prompt: "A", stream: true })),
  "openai-responses": async () =>
    readAll(await (await openai()).responses.create({ model: "tiny", input: "A", stream: true })),
  "openai-responses-helper": async () =>
    (await openai()).responses.stream({ model: "tiny", input: "A" }).finalResponse(),
  "anthropic-messages": async () =>
    readAll(await (await anthropic()).messages.create({
      model: "tiny", messages, max_tokens: 8, stream: true,
    })),
  "anthropic-messages-helper": async () =>
    (await anthropic()).messages.stream({ model: "tiny", messages, max_tokens: 8 }).finalMessage(),
  "langchain-chat": () => langchain(false),
  "langchain-responses": () => langchain(true),
};

for await (const name of createInterface({ input: process.stdin })) {
  try {
    await clients[name]();
    console.log("{}");
  } catch (error) {
    console.log(JSON.stringify({ error: `${error.constructor.name}: ${error.message}` }));
  }
}
process.exit(0);
