// What the Node peers share: their words on the command line, and the client of their world.
//
//   PEER setup EVENTS HANDLERS     install, and enqueue a job per event and handler
//   PEER work                      deliver until SIGTERM
//   PEER trickle SECONDS RATE      enqueue at a rate; prints the moments (ns) at which it returned
//
// DATABASE_URL and SINK_URL are in the environment.
import { Pool } from "undici";

export const databaseUrl = process.env.DATABASE_URL;
export const queues = (handlers) => Array.from({ length: handlers }, (_, n) => `post${n + 1}`);
export const MOST_HANDLERS = 2;

export function event(number) {
  const variables = { i_env: 3, i_account: (number % 1000) + 1, i_event: number };
  return { event_type: "Account/Blocked", variables };
}

// At most 50 requests at the same time over keep-alive connections; more wait in the pool.
export function poster() {
  const { origin, pathname } = new URL(process.env.SINK_URL);
  const pool = new Pool(origin, { connections: 50 });
  const headers = { "content-type": "application/json" };
  return async (payload) => {
    const reply = await pool.request({
      path: pathname,
      method: "POST",
      headers,
      body: JSON.stringify(payload),
    });
    await reply.body.dump();
    if (reply.statusCode !== 200) throw new Error(`status ${reply.statusCode}`);
  };
}

export async function trickle(send, seconds, rate) {
  const at = [];
  const begun = process.hrtime.bigint();
  for (let number = 1; number <= seconds * rate; number++) {
    const due = begun + BigInt(Math.round((number - 1) * (1e9 / rate)));
    const wait = Number(due - process.hrtime.bigint()) / 1e6;
    if (wait > 0) await new Promise((resolve) => setTimeout(resolve, wait));
    await send(event(number));
    at.push(Number(process.hrtime.bigint()));
  }
  console.log(JSON.stringify(at));
}

export async function main({ setup, work, trickle: run }) {
  const [, , word, ...numbers] = process.argv;
  await { setup, work, trickle: run }[word](...numbers.map(Number));
  if (word !== "work") process.exit(0);
}
