"use strict";
// Reads what anybody with a key may read: /health, /info, /info/requests, /metrics, and /models
// where there are several. Orders for these need an admin key. Whatever is read is put into the
// page as text, never as markup.

const POLL_MS = 2000;
const INFO_EVERY = 5; // polls
const WINDOW_SECONDS = 20; // rates are over this
const LINE_POINTS = 60;
const MAX_TOKENS = 512;
const PARTS = ["queued", "receiving", "media", "waiting", "generating", "sidecar", "other"];
const STATES = { ready: "good", failed: "bad", loading: "busy", unloading: "busy" };
const BAD = ["failed", "degraded", "stopped"];

const $ = (id) => document.getElementById(id);
const seen = { samples: [], rates: [], tokens: [], polls: 0, model: null };

// Asking ------------------------------------------------------------------------------------

class Unauthorized extends Error {
  constructor(secret) {
    super();
    this.secret = secret;
  }
}

const keptAs = (name) => ({
  get: () => sessionStorage.getItem(name),
  set: (value) => sessionStorage.setItem(name, value),
  forget: () => sessionStorage.removeItem(name),
});
const key = keptAs("sidecar.key");
const adminKey = keptAs("sidecar.admin-key"); // for orders to models only

function asked(path, options = {}, secret = key.get()) {
  const headers = { ...options.headers };
  if (secret) headers.authorization = `Bearer ${secret}`;
  return fetch(path, { cache: "no-store", ...options, headers });
}

async function read(path) {
  const secret = key.get();
  const answer = await asked(path, {}, secret);
  if (answer.status === 401) throw new Unauthorized(secret);
  return answer;
}

// Formats -----------------------------------------------------------------------------------

function seconds(value) {
  if (value === undefined || value === null) return "–";
  if (value < 1) return `${Math.round(value * 1000)} ms`;
  if (value < 60) return `${value.toFixed(value < 10 ? 2 : 1)} s`;
  if (value < 3600) return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
  const hours = value / 3600;
  return hours < 48 ? `${hours.toFixed(1)} h` : `${Math.round(hours / 24)} days`;
}

function whole(value) {
  return value < 1 ? "0 s" : value < 60 ? `${Math.floor(value)} s` : seconds(value);
}

const ms = (value) => seconds(value === undefined ? undefined : value / 1000);
const count = (value) => (value >= 100 ? Math.round(value).toLocaleString("en") : value.toFixed(1));
const gib = (value) => (value / 1024 ** 3).toFixed(0);
const percent = (value) => `${Math.round(value * 100)} %`;

function text(id, value) {
  $(id).textContent = value ?? "";
  $(id).hidden = !value;
}

function made(tag, content, ...classes) {
  const element = document.createElement(tag);
  element.textContent = content ?? "";
  if (classes.length) element.classList.add(...classes);
  return element;
}

// State -------------------------------------------------------------------------------------

function showHealth(health, isGood) {
  const kind = isGood ? "good" : BAD.includes(health.phase) ? "bad" : "busy";
  const share = health.progress === undefined ? "" : ` ${percent(health.progress)}`;
  // It has given its place back, and the next request loads it again.
  const phase = isGood && health.phase === "stopped" ? "unloaded" : health.phase;
  const models = Object.values(health.models ?? {});
  const ready = models.filter((each) => each.status === "ready").length;
  const words = models.length ? `${ready} of ${models.length} ready` : `${phase}${share}`;
  $("badge").className = `badge ${kind}`;
  $("badge").textContent = words;
  document.title = `${words} · vLLM sidecar`;
  $("progress").hidden = health.progress === undefined;
  if (health.progress !== undefined) $("progress").value = health.progress;
  text("eta", health.eta_seconds && `Ready in about ${whole(health.eta_seconds)}.`);
  text("reason", health.reason);
  text("remedy", health.remedy);
  seen.model = health.model ?? null;
}

function showInfo(info) {
  const { engine, model, sidecar } = info;
  const random = model.random_weights ? " (random weights: its answers mean nothing)" : "";
  text("model", `${model.name ?? ""}${random}`);
  text("versions", `sidecar ${sidecar.version}${engine.version ? `, vLLM ${engine.version}` : ""}`);
  const cause = engine.last_restart_cause ? `${engine.restarts}, last: ${engine.last_restart_cause}` : engine.restarts;
  const facts = { up: whole(info.uptime_seconds), restarts: cause };
  if (model.served_names.length > 1) facts.names = model.served_names.join(", ");
  if (info.hardware.gpus.length) facts.GPU = info.hardware.gpus.map((gpu) => gpu.name).join(", ");
  const rows = Object.entries(facts).map(([name, value]) => {
    const row = made("div");
    row.append(made("dt", name), made("dd", String(value)));
    return row;
  });
  $("facts").replaceChildren(...rows);
}

// Metrics -----------------------------------------------------------------------------------

function parsed(page) {
  const families = new Map();
  for (const line of page.split("\n")) {
    const match = /^(\w+)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!match) continue;
    const labels = {};
    for (const pair of (match[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[pair[1]] = pair[2];
    if (!families.has(match[1])) families.set(match[1], []);
    families.get(match[1]).push({ labels, value: Number(match[3]) });
  }
  return families;
}

function total(families, name) {
  return (families.get(name) ?? []).reduce((sum, sample) => sum + sample.value, 0);
}

function showMetrics(page) {
  const families = parsed(page);
  const now = {
    at: performance.now() / 1000,
    requests: total(families, "sidecar_requests_total"),
    tokens: total(families, "sidecar_completion_tokens_total"),
  };
  const before = seen.samples[seen.samples.length - 1];
  if (before && now.requests < before.requests) seen.samples = []; // it was started anew
  seen.samples = [...seen.samples.filter((sample) => now.at - sample.at <= WINDOW_SECONDS), now];
  const first = seen.samples[0];
  if (now.at > first.at) {
    showRate("rate", seen.rates, (now.requests - first.requests) / (now.at - first.at));
    showRate("tokens", seen.tokens, (now.tokens - first.tokens) / (now.at - first.at));
  }
  $("flight").textContent = total(families, "sidecar_requests_in_flight");
  showEngine(families);
  showGpus(families);
}

function showRate(id, line, value) {
  line.push(value);
  if (line.length > LINE_POINTS) line.shift();
  $(id).textContent = count(value);
  const top = Math.max(...line, 1e-9);
  const left = LINE_POINTS - line.length; // now is on the right
  const points = line.map((each, n) => `${(100 * (left + n)) / (LINE_POINTS - 1)},${23 - (22 * each) / top}`);
  $(`${id}-line`).firstElementChild.setAttribute("points", points.join(" "));
}

function showEngine(families) {
  const notes = [];
  const waiting = families.get("sidecar_engine_requests_waiting");
  const cache = families.get("sidecar_engine_kv_cache_usage_ratio");
  if (waiting) notes.push(`${total(families, "sidecar_engine_requests_waiting")} wait in the engine`);
  if (cache) notes.push(`KV cache ${percent(Math.max(...cache.map((sample) => sample.value)))}`);
  $("flight-note").textContent = notes.join(", ");
}

function showGpus(families) {
  const of = (name, gpu) =>
    (families.get(name) ?? []).find((sample) => sample.labels.gpu === gpu)?.value;
  const gpus = (families.get("sidecar_gpu_memory_total_bytes") ?? []).map((sample) => sample.labels.gpu);
  if (!gpus.length) {
    $("gpus").replaceChildren(made("p", "none", "number"));
    return;
  }
  const lines = gpus.flatMap((gpu) => {
    const used = of("sidecar_gpu_memory_used_bytes", gpu);
    const busy = of("sidecar_gpu_utilization_ratio", gpu);
    const heat = of("sidecar_gpu_temperature_celsius", gpu);
    const notes = [];
    if (used !== undefined) notes.push(`${gib(used)} of ${gib(of("sidecar_gpu_memory_total_bytes", gpu))} GiB`);
    if (heat !== undefined) notes.push(`${heat} °C`);
    if (gpus.length > 1) notes.unshift(`GPU ${gpu}`);
    return [made("p", busy === undefined ? "–" : percent(busy), "number"), made("p", notes.join(", "), "note")];
  });
  $("gpus").replaceChildren(...lines);
}

// Models ------------------------------------------------------------------------------------

const modelLines = new Map(); // by name; they stay, so that a button keeps the focus

function showModels(rows) {
  $("models").hidden = false;
  for (const row of rows) {
    if (!modelLines.has(row.name)) modelLines.set(row.name, modelLine(row.name));
    fillModelLine(modelLines.get(row.name), row);
  }
  const names = rows.map((row) => row.name);
  for (const name of modelLines.keys()) if (!names.includes(name)) modelLines.delete(name);
  const now = names.map((name) => modelLines.get(name).tr);
  const body = $("model-rows").tBodies[0];
  if (now.length !== body.rows.length || now.some((tr, n) => tr !== body.rows[n])) body.replaceChildren(...now);
  showChoice(names);
  showSteering();
}

function modelLine(name) {
  const line = { tr: made("tr"), name: made("td", name, "name"), why: made("span", "", "note"), state: made("td", "", "outcome") };
  for (const each of ["memory", "used", "flight", "waiting"]) line[each] = labelled(each.replace("flight", "in flight"), "");
  line.load = made("button", "");
  line.pin = made("button", "");
  line.actions = made("td", "", "actions", "right");
  line.actions.append(line.load, line.pin);
  line.name.append(line.why);
  for (const button of [line.load, line.pin]) {
    button.type = "button";
    button.addEventListener("click", () => order(name, button.dataset.action, button));
  }
  line.tr.append(line.name, line.state, line.memory, line.used, line.flight, line.waiting, line.actions);
  return line;
}

function fillModelLine(line, row) {
  const share = row.status === "loading" && row.progress !== undefined ? ` ${percent(row.progress)}` : "";
  const left = row.eta_seconds && `Ready in about ${whole(row.eta_seconds)}.`;
  line.isReady = row.status === "ready";
  line.state.textContent = `${row.status}${share}${row.pinned ? ", pinned" : ""}`;
  line.state.className = `outcome ${STATES[row.status] ?? "quiet"}`;
  line.why.textContent = [row.reason, row.remedy, left].filter(Boolean).join(" ");
  line.why.hidden = !line.why.textContent;
  line.memory.textContent = row.memory_bytes ? `${(row.memory_bytes / 1024 ** 3).toFixed(1)} GiB` : "–";
  line.memory.title = row.gpus?.length ? `on each of GPU ${row.gpus.join(", ")}` : "";
  line.used.textContent = row.in_flight ? "now" : row.last_used_seconds_ago === undefined ? "–" : `${whole(row.last_used_seconds_ago)} ago`;
  line.flight.textContent = row.in_flight;
  line.waiting.textContent = row.waiting;
  const isLoaded = ["ready", "loading"].includes(row.status);
  setAction(line.load, isLoaded ? "unload" : "load", row.name);
  setAction(line.pin, row.pinned ? "unpin" : "pin", row.name);
}

function setAction(button, action, model) {
  button.dataset.action = action;
  button.textContent = action[0].toUpperCase() + action.slice(1);
  button.setAttribute("aria-label", `${button.textContent} ${model}`);
}

function showChoice(names) {
  const options = [...$("which").options].map((option) => option.value);
  if (options.join("\n") !== names.join("\n")) {
    const chosen = $("which").value;
    $("which").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) $("which").value = chosen;
  }
  $("which").hidden = false;
}

function showSteering() {
  const isOn = $("steer").getAttribute("aria-pressed") === "true";
  for (const each of document.querySelectorAll("#model-rows .actions")) each.hidden = !isOn;
}

function steer(isOn) {
  $("steer").setAttribute("aria-pressed", String(isOn));
  if (!isOn) $("admin").hidden = true;
  showSteering();
}

let orderWithoutKey = null; // it is sent again with the key that is entered

async function order(name, action, button) {
  const path = `models/${encodeURIComponent(name)}/${action}`;
  let problem = "";
  try {
    const answer = await asked(path, { method: "POST" }, adminKey.get() ?? key.get());
    const body = await answer.json();
    if (answer.ok) fillModelLine(modelLines.get(name), body);
    else if (answer.status === 401) askForAdminKey([name, action, button]);
    else problem = `${name}: ${body.error?.message ?? `status ${answer.status}`}`;
  } catch {
    problem = "The sidecar does not answer.";
  }
  text("steer-note", problem);
}

function askForAdminKey(order) {
  orderWithoutKey = order;
  $("admin-refused").hidden = !adminKey.get();
  adminKey.forget();
  $("admin").hidden = false;
  $("admin-key").focus();
}

$("steer").addEventListener("click", () => steer($("steer").getAttribute("aria-pressed") !== "true"));
$("admin").addEventListener("submit", (event) => {
  event.preventDefault();
  adminKey.set($("admin-key").value.trim());
  $("admin-key").value = "";
  $("admin").hidden = true;
  orderWithoutKey[2].focus();
  order(...orderWithoutKey);
});

// Requests ----------------------------------------------------------------------------------

function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

function showRequests(rows) {
  const firsts = rows.map((row) => row.ttft_ms).filter((value) => value !== undefined).sort((a, b) => a - b);
  $("ttft").textContent = firsts.length ? ms(quantile(firsts, 0.5)) : "–";
  $("ttft-note").textContent = firsts.length
    ? `median; p95 ${ms(quantile(firsts, 0.95))}; last ${firsts.length} streams`
    : "no stream among the last requests";
  $("none").hidden = rows.length > 0;
  $("requests").hidden = rows.length === 0;
  $("requests").tBodies[0].replaceChildren(...rows.map(requestRow));
}

function requestRow(row) {
  const line = made("tr");
  const ok = row.outcome === "ok";
  const name = made("td", row.model ? `${row.route} · ${row.model}` : row.route, "name");
  name.title = `request ${row.request_id}`;
  const outcome = made("td", ok ? `${row.status} ok` : `${row.status ?? ""} ${row.error ?? row.outcome}`.trim(), "outcome", ok ? "good" : row.error_source === "client" ? "busy" : "bad");
  const cells = [
    made("td", `${whole(row.seconds_ago)} ago`),
    name,
    outcome,
    labelled("tokens", row.completion_tokens === undefined ? "–" : `${row.prompt_tokens ?? "?"} → ${row.completion_tokens}`),
    labelled("first", ms(row.ttft_ms)),
    labelled("took", ms(row.duration_ms)),
    splitCell(row.split_ms),
  ];
  line.append(...cells);
  return line;
}

function labelled(name, content) {
  const cell = made("td", content, "right");
  cell.dataset.of = name;
  return cell;
}

function splitCell(split) {
  const cell = made("td", "", "split");
  const bar = made("div", "", "bar");
  const parts = PARTS.filter((part) => split[part] > 0);
  const spent = parts.reduce((sum, part) => sum + split[part], 0);
  for (const part of parts) {
    const piece = made("span", "", part);
    piece.style.flexGrow = (100 * split[part]) / spent; // less than 1 in all would leave a gap
    bar.append(piece);
  }
  bar.title = parts.map((part) => `${part} ${ms(split[part])}`).join(", ");
  bar.setAttribute("role", "img");
  bar.setAttribute("aria-label", bar.title);
  cell.append(bar);
  return cell;
}

// The round ---------------------------------------------------------------------------------

async function look() {
  const [health, requests, metrics] = await Promise.all([
    asked("health"), read("info/requests"), read("metrics"),
  ]);
  const state = await health.json();
  showHealth(state, health.ok);
  if (state.models) await lookAtModels();
  showRequests((await requests.json()).requests);
  $("elsewhere").hidden = metrics.status !== 404;
  if (metrics.ok) showMetrics(await metrics.text());
  if (seen.polls % INFO_EVERY === 0) showInfo(await (await read("info")).json());
  seen.polls += 1;
}

async function lookAtModels() {
  const answer = await read("models");
  if (answer.ok) showModels((await answer.json()).models);
}

async function refresh() {
  if (document.hidden) return;
  try {
    await look();
    $("silent").hidden = true;
    $("door").hidden = true;
    $("forget").hidden = !key.get() && !adminKey.get();
  } catch (failure) {
    const locked = failure instanceof Unauthorized;
    // Another key may have been entered since it was asked.
    if (locked && failure.secret === key.get()) askForKey();
    $("silent").hidden = locked;
  }
}

function round() {
  refresh().then(() => setTimeout(round, POLL_MS));
}

function askForKey() {
  $("refused").hidden = !key.get();
  key.forget();
  seen.polls = 0;
  if ($("door").hidden) {
    $("door").hidden = false;
    $("key").focus();
  }
}

$("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key.set($("key").value.trim());
  $("key").value = "";
  refresh();
});
$("forget").addEventListener("click", () => { key.forget(); adminKey.forget(); location.reload(); });

// Chat --------------------------------------------------------------------------------------

let picture = null;
let running = null;

$("picture").addEventListener("change", () => {
  const file = $("picture").files[0];
  picture = null;
  $("preview").hidden = true;
  if (!file) return;
  const reader = new FileReader();
  reader.addEventListener("load", () => {
    picture = reader.result;
    $("preview").src = picture;
    $("preview").hidden = false;
  });
  reader.readAsDataURL(file);
});

function chatBody() {
  const question = { type: "text", text: $("question").value };
  const parts = picture ? [{ type: "image_url", image_url: { url: picture } }, question] : [question];
  const content = picture ? parts : question.text;
  const model = $("which").value || seen.model;
  return { model, stream: true, max_tokens: MAX_TOKENS, messages: [{ role: "user", content }] };
}

async function* events(stream) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = stream.getReader(); ;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      const data = line.startsWith("data:") ? line.slice(5).trim() : "";
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function ask(signal) {
  const began = performance.now();
  const answer = await asked("v1/chat/completions", {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(chatBody()), signal,
  });
  if (!answer.ok) throw new Error((await answer.json()).error?.message ?? `status ${answer.status}`);
  let first = null;
  for await (const event of events(answer.body)) {
    if (event.error) throw new Error(event.error.message);
    const delta = event.choices?.[0]?.delta ?? {};
    const piece = delta.content ?? delta.reasoning ?? "";
    if (piece && first === null) first = performance.now() - began;
    $("answer").textContent += piece;
  }
  return `First token after ${ms(first ?? undefined)}, all after ${ms(performance.now() - began)}.`;
}

$("chat").addEventListener("submit", async (event) => {
  event.preventDefault();
  running = new AbortController();
  $("send").disabled = true;
  $("stop").hidden = false;
  $("answer").textContent = "";
  $("answer-note").className = "note";
  const line = modelLines.get($("which").value);
  $("answer-note").textContent = line && !line.isReady ? "The model is loaded first…" : "…";
  try {
    $("answer-note").textContent = await ask(running.signal);
  } catch (failure) {
    const stopped = failure.name === "AbortError";
    $("answer-note").textContent = stopped ? "Stopped." : failure.message;
    $("answer-note").classList.toggle("bad", !stopped);
  }
  $("send").disabled = false;
  $("stop").hidden = true;
});
$("stop").addEventListener("click", () => running.abort());

steer(Boolean(adminKey.get()));
round();
