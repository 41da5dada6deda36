/** What the page asks of the server, with the key of this tab, and why there is no answer, in words. */

const PLACE = "leantune-api-key";
const keyListeners = [];

/** A request without an answer that helps. `status` 0: nobody answered. */
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
  /** Call `listener` with a reason whenever the server refuses a request for want of a key. */
  whenRefused: (listener) => keyListeners.push(listener),
};

/** The JSON that the server answers, and its headers; throws a Refusal, or an AbortError after `signal`. */
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
    if (error instanceof SyntaxError) throw new Refusal(502, "What answered is not leantune serve: it sent no JSON.");
    throw new Refusal(0, "The server does not answer. Was it stopped, or has it another address now?");
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
    401: "The server wants its API key: type it in above.",
    404: `${said} Choose another classifier.`,
    413: `Too large: ${said}. Send less text at once.`,
    429: "The server has as many requests as it takes. Try again in a moment.",
    503: "The server is not ready: it starts, or is about to stop. Try again in a moment.",
    504: `The server was too slow: ${said}.`,
  };
  return words[status] ?? `The server refused: ${said || `status ${status}`}`;
}
