// The public API, as seen from the browser. Two kinds of failure: the API refused (Refused: asking again will not help)
// or it gave no usable answer (Unreachable: ask again later).

import { signIn } from "./session.js";

const TIMEOUT_MS = 15_000;
const SESSION = "/v1/session";

export class Refused extends Error {
  /** @param {{title?: string, detail?: string, errors?: {field: string, message: string}[]}} problem RFC 9457 body */
  constructor(status, problem) {
    super(problem.detail || problem.title || `The API answered ${status}`);
    this.status = status;
    this.title = problem.title || `Error ${status}`;
    this.errors = Array.isArray(problem.errors) ? problem.errors : [];
  }
}

export class Unreachable extends Error {
  constructor(message, retryAfterSeconds = 0) {
    super(message);
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

const passing = (status) => status >= 500 || status === 429 || status === 408;

/** Beside the cookie, which another page could have a browser send: such a header it could not. */
const OWN = { "X-Robustreps-Dashboard": "1" };

async function answer(path, { headers = { Accept: "application/json" }, ...options } = {}, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const signals = signal ? AbortSignal.any([signal, timeout]) : timeout;
    return await fetch(path, { ...options, headers: { ...headers, ...OWN }, signal: signals });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("Cannot reach the API");
  }
}

const json = (response) => response.json().catch(() => null);
const text = (response) => (response.ok ? response.text() : json(response));

async function request(path, options, signal, read = json) {
  const response = await answer(path, options, signal);
  const body = response.status === 204 ? {} : await read(response);
  if (signal?.aborted) throw signal.reason;
  if (passing(response.status)) {
    const reason = body?.detail || body?.title || `it answers ${response.status}`;
    throw new Unreachable(`The API is not available (${reason})`, Number(response.headers.get("Retry-After")) || 0);
  }
  if (response.status === 401 && path !== SESSION) signIn();
  if (!response.ok) throw new Refused(response.status, body ?? {});
  if (body === null) throw new Unreachable("The API sent an answer that is not JSON");
  return body;
}

function query(parameters) {
  // A list is a parameter that stands as often as it has values.
  const all = Object.entries(parameters).flatMap(([name, value]) => [value].flat().map((each) => [name, each]));
  const pairs = all.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return new URLSearchParams(pairs).toString();
}

const modelPath = (name) => `/v1/models/${encodeURIComponent(name)}`;
const datasetPath = (name) => `/v1/datasets/${encodeURIComponent(name)}`;
const jobPath = (id) => `/v1/jobs/${encodeURIComponent(id)}`;
const fresh = { cache: "no-cache" };

/** `filters` are those of the API: limit, state, kind, label, text, created_after, cursor, top_level, parent ... */
export const listJobs = (filters, signal) => request(`/v1/jobs?${query(filters)}`, fresh, signal);
export const getJob = (id, signal) => request(jobPath(id), fresh, signal);
/** `filters` are those of the API: limit, cursor or offset, state, error, sort, order, counted. */
export const listItems = (id, filters, signal) => request(`${jobPath(id)}/items?${query(filters)}`, fresh, signal);
export const getItem = (id, index, signal) => request(`${jobPath(id)}/items/${index}`, fresh, signal);
export const listEpochs = (id, signal) => request(`${jobPath(id)}/epochs`, fresh, signal);
export const listFailures = (id, signal) => request(`${jobPath(id)}/failures`, fresh, signal);
export const listShards = (id, asked, signal) => request(`${jobPath(id)}/shards?${query(asked)}`, fresh, signal);
export const listLogs = (id, asked, signal) => request(`${jobPath(id)}/logs?${query(asked)}`, fresh, signal);
const change = (verb) => (id) => request(`${jobPath(id)}/${verb}`, { method: "POST" });
export const cancelJob = change("cancel");
export const pauseJob = change("pause");
export const resumeJob = change("resume");
export const retryJob = change("retry");
/** `filters` are those of the API: limit, cursor, job, title. */
export const listDeadLetters = (filters, signal) => request(`/v1/dead-letters?${query(filters)}`, fresh, signal);
/** What is at an artifact's url never changes, so the browser's cache may answer. */
export const getArtifact = (url, signal) => request(url, {}, signal);
export const getText = (url, signal) => request(url, { headers: {} }, signal, text);

export const enter = (key) => request(SESSION, sending("POST", { key }));
export const leave = () => request(SESSION, { method: "DELETE" });

export const listWorkers = (signal) => request("/v1/workers", fresh, signal);

export const listModels = (signal) => request("/v1/models", fresh, signal);
export const getModel = (name, signal) => request(modelPath(name), fresh, signal);
export const listEvaluations = (name, signal) => request(`${modelPath(name)}/evaluations`, fresh, signal);
export const weightsUrl = (name) => `${modelPath(name)}/weights`;
export const listDatasets = (signal) => request("/v1/datasets", fresh, signal);
export const getDataset = (name, signal) => request(datasetPath(name), fresh, signal);
export const imageUrl = (name, index) => `${datasetPath(name)}/images/${index}`;

export const getOpenapi = (signal) => request("/openapi.json", fresh, signal);
export const listRecipes = (signal) => request("/v1/recipes", fresh, signal);
export const listArchitectures = (signal) => request("/v1/architectures", fresh, signal);
/** How a job was asked for: {address, body}. */
export const getRequest = (id, signal) => request(`${jobPath(id)}/request`, fresh, signal);
const sending = (method, body, headers = {}) => ({
  method,
  headers: { "Content-Type": "application/json", ...headers },
  body: JSON.stringify(body),
});
/** A key for a request: nobody else's, so that sending it twice makes one job. */
export const newKey = () =>
  [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");
/** `patch` is a merge patch on the job's request; the same `key` makes the same job. */
export const cloneJob = (id, patch, key) =>
  request(`${jobPath(id)}/clone`, sending("POST", patch, { "Idempotency-Key": key }));
export const postJob = (address, body, key) => request(address, sending("POST", body, { "Idempotency-Key": key }));
export const patchJob = (id, patch) => request(jobPath(id), sending("PATCH", patch));
export const deleteJob = (id) => request(jobPath(id), { method: "DELETE" });
/** What a request would become: a dry run at the address where it would be posted. */
export const preview = (address, body, signal) => request(`${address}?dry_run=true`, sending("POST", body), signal);

const file = (body) => ({ method: "POST", body, headers: { "Content-Type": "application/octet-stream" } });
export const uploadImage = (data) => request("/v1/images", file(data));
export const uploadedUrl = (id) => `/v1/images/${encodeURIComponent(id)}`;
export const uploadManifest = (data) => request("/v1/manifests", file(data));
