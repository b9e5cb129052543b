#!/usr/bin/env node
// Prisma's own query engine, as Prisma builds it for WebAssembly (npm: @prisma/client), behind the HTTP
// that prisma-client-py speaks with the executable of the same engine: `bench/install-peers.sh prisma`.
//
// This build of the engine takes its queries as JSON; the client writes the same ones as GraphQL. What is
// here is that translation: names, arguments and selections as they are, JSON fields marked as such, and
// in the answers the marks taken off again. What a query means and does is the engine's alone.
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";

const PLACE = process.env.PRISMA_BINARY_CACHE_DIR;
const need = createRequire(join(PLACE, "package.json"));
if (process.argv.includes("--version")) {
  console.log(`query-engine ${need("@prisma/engines-version").enginesVersion}`);
  process.exit(0);
}

const { Kind, parse } = need("graphql");
const { Pool } = need("pg");
const { PrismaPg } = need("@prisma/adapter-pg");
const { bindAdapter } = need("@prisma/driver-adapter-utils");
const ENGINE = join(PLACE, "node_modules/@prisma/client/runtime/query_engine_bg.postgresql");
const SCHEMA = readFileSync(process.env.PRISMA_DML_PATH, "utf8");
const MODELS = models();
const NO_TRACE = "{}";

const RAW = ["queryRaw", "executeRaw"];
const ACTION =
  /^((?:find|update|delete|create)(?:Unique|First|Many|One)|upsertOne|aggregate|groupBy)(.+?)(OrThrow)?$/;
// In a filter of a JSON field these are not JSON themselves.
const PLAIN = ["path", "mode", "string_contains", "string_starts_with", "string_ends_with"];

// PostgreSQL calls its own names a type, which the adapter of this version does not know: they are text.
const TEXTS = new Map([[19, 25], [1003, 1009]]);
const Result = need("pg/lib/result");
const { addFields } = Result.prototype;
Result.prototype.addFields = function (fields) {
  for (const field of fields) field.dataTypeID = TEXTS.get(field.dataTypeID) ?? field.dataTypeID;
  return addFields.call(this, fields);
};

/** The fields of each model by name: the answer of Prisma's own parser of schemas. */
function models() {
  const asked = JSON.stringify({ prismaSchema: SCHEMA });
  const { datamodel } = JSON.parse(need("@prisma/prisma-schema-wasm").get_dmmf(asked));
  const fields = (model) => new Map(model.fields.map((field) => [field.name, field]));
  return new Map(datamodel.models.map((model) => [model.name, fields(model)]));
}

// From GraphQL to the engine's JSON

function json(value) {
  if (typeof value === "string") return { $type: "Json", value };
  if (Array.isArray(value)) return value.map(json);
  if (value === null || typeof value !== "object") return value;
  const entries = Object.entries(value);
  return Object.fromEntries(
    entries.map(([key, each]) => [key, PLAIN.includes(key) ? each : json(each)]),
  );
}

/** A value for `model` with its JSON fields marked, and those of related models. */
function marked(model, value) {
  if (Array.isArray(value)) return value.map((each) => marked(model, each));
  if (value === null || typeof value !== "object" || "$type" in value) return value;
  const entries = Object.entries(value).map(([key, each]) => {
    const field = MODELS.get(model)?.get(key);
    if (field?.type === "Json") return [key, json(each)];
    return [key, marked(field?.relationName ? field.type : model, each)];
  });
  return Object.fromEntries(entries);
}

function literal(node) {
  switch (node.kind) {
    case Kind.NULL:
      return null;
    case Kind.INT: {
      const number = Number(node.value);
      return Number.isSafeInteger(number) ? number : { $type: "BigInt", value: node.value };
    }
    case Kind.FLOAT:
      return Number(node.value);
    case Kind.LIST:
      return node.values.map(literal);
    case Kind.OBJECT:
      return Object.fromEntries(node.fields.map((each) => [each.name.value, literal(each.value)]));
    default: // strings, booleans, enumerations
      return node.value;
  }
}

function query(model, field) {
  const given = field.arguments.map((each) => [each.name.value, marked(model, literal(each.value))]);
  const chosen = (field.selectionSet?.selections ?? []).map((each) => {
    const name = each.name.value;
    const other = MODELS.get(model)?.get(name);
    const below = other?.relationName ? other.type : model;
    return [name, each.selectionSet ? query(below, each) : true];
  });
  return { arguments: Object.fromEntries(given), selection: Object.fromEntries(chosen) };
}

/** A document of the client asks for one thing. */
function translated(text) {
  const [field] = parse(text, { noLocation: true }).definitions[0].selectionSet.selections;
  const name = field.name.value;
  if (RAW.includes(name)) return { action: name, query: query(undefined, field) };
  const [, verb, modelName, end = ""] = name.match(ACTION);
  return { action: verb + end, modelName, query: query(modelName, field) };
}

// And back

function unmarked(value) {
  if (Array.isArray(value)) return value.map(unmarked);
  if (value === null || typeof value !== "object") return value;
  if ("$type" in value) return value.value;
  return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, unmarked(each)]));
}

/** The client calls what it has asked for "result". */
function renamed(answer) {
  if (!answer.data) return answer;
  return { ...answer, data: { result: unmarked(Object.values(answer.data)[0]) } };
}

// The engine and its HTTP

async function started(url) {
  const bindings = need(`${ENGINE}.js`);
  const imports = { "./query_engine_bg.js": bindings };
  const { instance } = await WebAssembly.instantiate(readFileSync(`${ENGINE}.wasm`), imports);
  bindings.__wbg_set_wasm(instance.exports);
  const limit = new URL(url).searchParams.get("connection_limit");
  const pool = new Pool({ connectionString: url, max: Number(limit ?? 10) });
  pool.on("error", (error) => console.error(`query-engine: ${error}`));
  const settings = {
    datamodel: SCHEMA,
    env: process.env,
    datasourceOverrides: {},
    ignoreEnvVarErrors: true,
    logQueries: false,
    logLevel: "error",
    configDir: ".",
    engineProtocol: "json",
  };
  const engine = new bindings.QueryEngine(settings, () => {}, bindAdapter(new PrismaPg(pool)));
  await engine.connect(NO_TRACE);
  return engine;
}

async function answered(engine, { url, headers }, body) {
  if (url === "/status") return '{"status":"ok"}';
  if (url === "/transaction/start") return engine.startTransaction(body, NO_TRACE);
  const [, id, end] = url.match(/^\/transaction\/(.+)\/(commit|rollback)$/) ?? [];
  if (end === "commit") return engine.commitTransaction(id, NO_TRACE);
  if (end === "rollback") return engine.rollbackTransaction(id, NO_TRACE);
  const { batch, transaction, query } = JSON.parse(body);
  const sent = batch
    ? { batch: batch.map((each) => translated(each.query)), transaction: transaction ? {} : null }
    : translated(query);
  const text = await engine.query(JSON.stringify(sent), NO_TRACE, headers["x-transaction-id"]);
  const answer = JSON.parse(text);
  if (!answer.batchResult) return JSON.stringify(renamed(answer));
  return JSON.stringify({ ...answer, batchResult: answer.batchResult.map(renamed) });
}

const [override] = JSON.parse(process.env.OVERWRITE_DATASOURCES ?? "[]");
const engine = await started(override?.url ?? process.env.DATABASE_URL);
const server = createServer(async (request, response) => {
  try {
    let body = "";
    for await (const part of request.setEncoding("utf8")) body += part;
    const answer = await answered(engine, request, body);
    response.writeHead(200, { "content-type": "application/json" }).end(answer);
  } catch (error) {
    console.error(`query-engine: ${error.stack ?? error}`);
    response.writeHead(500).end(String(error));
  }
});
server.listen(Number(process.argv[process.argv.indexOf("-p") + 1]), "127.0.0.1");
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));
// A client that was killed does not say so.
const client = process.ppid;
setInterval(() => process.ppid === client || process.exit(0), 500);
