// The public API, as seen from the browser. Two kinds of failure: the API refused (Refused: asking again will not help)
// or it gave no usable answer (Unreachable: ask again later).

const TIMEOUT_MS = 15_000;

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

async function answer(path, options, signal) {
  const timeout = AbortSignal.timeout(TIMEOUT_MS);
  try {
    const signals = signal ? AbortSignal.any([signal, timeout]) : timeout;
    return await fetch(path, { headers: { Accept: "application/json" }, signal: signals, ...options });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Unreachable("Cannot reach the API");
  }
}

const json = (response) => response.json().catch(() => null);
const text = (response) => (response.ok ? response.text() : json(response));

async function request(path, options, signal, read = json) {
  const response = await answer(path, options, signal);
  const body = await read(response);
  if (signal?.aborted) throw signal.reason;
  if (passing(response.status)) {
    const reason = body?.detail || body?.title || `it answers ${response.status}`;
    throw new Unreachable(`The API is not available (${reason})`, Number(response.headers.get("Retry-After")) || 0);
  }
  if (!response.ok) throw new Refused(response.status, body ?? {});
  if (body === null) throw new Unreachable("The API sent an answer that is not JSON");
  return body;
}

function query(parameters) {
  const pairs = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return new URLSearchParams(pairs).toString();
}

const modelPath = (name) => `/v1/models/${encodeURIComponent(name)}`;
const datasetPath = (name) => `/v1/datasets/${encodeURIComponent(name)}`;
const jobPath = (id) => `/v1/jobs/${encodeURIComponent(id)}`;
const fresh = { cache: "no-cache" };

/** `filters` are those of the API: limit, state, cursor, top_level, parent. */
export const listJobs = (filters, signal) => request(`/v1/jobs?${query(filters)}`, fresh, signal);
export const getJob = (id, signal) => request(jobPath(id), fresh, signal);
export const listItems = (id, { limit, cursor }, signal) =>
  request(`${jobPath(id)}/items?${query({ limit, cursor })}`, fresh, signal);
export const getItem = (id, index, signal) => request(`${jobPath(id)}/items/${index}`, fresh, signal);
export const listEpochs = (id, signal) => request(`${jobPath(id)}/epochs`, fresh, signal);
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

export const listModels = (signal) => request("/v1/models", fresh, signal);
export const getModel = (name, signal) => request(modelPath(name), fresh, signal);
export const listEvaluations = (name, signal) => request(`${modelPath(name)}/evaluations`, fresh, signal);
export const weightsUrl = (name) => `${modelPath(name)}/weights`;
export const listDatasets = (signal) => request("/v1/datasets", fresh, signal);
export const getDataset = (name, signal) => request(datasetPath(name), fresh, signal);
export const imageUrl = (name, index) => `${datasetPath(name)}/images/${index}`;
