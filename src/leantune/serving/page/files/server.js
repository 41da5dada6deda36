/** Requests to the server with the API key of this tab, and their error messages. */

const PLACE = "leantune-api-key";
const keyListeners = [];

/** A failed request. `status` is 0 if the server did not answer. */
export class Refusal extends Error {
  constructor(status, message, retryAfter = 1) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const key = {
  get: () => sessionStorage.getItem(PLACE),
  set: (value) => sessionStorage.setItem(PLACE, value),
  forget: () => sessionStorage.removeItem(PLACE),
  /** Call `listener` when the server refuses a request with HTTP 401; its argument tells whether a key was sent. */
  whenRefused: (listener) => keyListeners.push(listener),
};

/** Return the JSON and the headers of an answer. Throws a Refusal, or an AbortError after `signal`. */
export async function ask(path, { body, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const secret = key.get();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, signal, body: body && JSON.stringify(body), cache: "no-store" });
    if (response.ok) return { data: await response.json(), headers: response.headers };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new Refusal(502, "The answer is not JSON: it does not come from leantune serve.");
    throw new Refusal(0, "The server does not answer. It may have been stopped or moved to another address.");
  }
  const refusal = await refusalOf(response);
  if (refusal.status === 401) keyListeners.forEach((listener) => listener(Boolean(secret)));
  throw refusal;
}

async function refusalOf(response) {
  let said = "";
  try {
    const answer = await response.json();
    said = answer.error?.message ?? answer.error ?? "";
  } catch {
    said = response.statusText;
  }
  return new Refusal(response.status, inWords(response.status, String(said)), Number(response.headers.get("Retry-After")) || 1);
}

function inWords(status, said) {
  const words = {
    401: "The server requires its API key: enter it above.",
    404: `${said} Choose another classifier.`,
    413: `The request is too large: ${said}. Send less text at once.`,
    429: "The server is overloaded. Try again in a moment.",
    503: "The server is not ready: it is starting or stopping. Try again in a moment.",
    504: `The server was too slow: ${said}.`,
  };
  return words[status] ?? `The server refused the request: ${said || `HTTP status ${status}`}`;
}
