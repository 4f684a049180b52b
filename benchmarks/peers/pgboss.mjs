// pg-boss: eight fetchers of 1000 jobs each, going on at once while batches are full, woken by
// LISTEN/NOTIFY when they wait. A batch is completed as a whole, so a failed job fails its batch.
import { PgBoss } from "pg-boss";
import { MOST_HANDLERS, databaseUrl, event, main, poster, queues, trickle } from "./peer.mjs";

const CHUNK = 5000;

async function boss() {
  const made = new PgBoss({
    connectionString: databaseUrl,
    max: 20,
    useListenNotify: true,
    supervise: false,
    schedule: false,
  });
  made.on("error", (error) => console.error(error));
  await made.start();
  return made;
}

async function setup(events, handlers) {
  const made = await boss();
  for (const name of queues(MOST_HANDLERS)) await made.createQueue(name, { notify: true });
  for (const name of queues(handlers))
    for (let from = 1; from <= events; from += CHUNK) {
      const jobs = [];
      for (let number = from; number < from + CHUNK && number <= events; number++)
        jobs.push({ data: event(number) });
      await made.insert(name, jobs);
    }
}

async function work() {
  const made = await boss();
  const post = poster();
  const options = {
    batchSize: 1000,
    localConcurrency: 8,
    pollingIntervalSeconds: 0.5,
    burstWhenBatchFull: true,
  };
  for (const name of queues(MOST_HANDLERS))
    await made.work(name, options, (jobs) => Promise.all(jobs.map((job) => post(job.data))));
}

async function drip(seconds, rate) {
  const made = await boss();
  await trickle((payload) => made.send("post1", payload), seconds, rate);
}

await main({ setup, work, trickle: drip });
