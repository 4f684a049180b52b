// graphile-worker, set up for throughput as its documents advise: jobs fetched 500 at a time into
// the local queue, completions in batches, a connection per job that runs.
import { Logger, makeWorkerUtils, run } from "graphile-worker";
import { MOST_HANDLERS, databaseUrl, event, main, poster, queues, trickle } from "./peer.mjs";

const CHUNK = 5000;
const quiet = new Logger(() => () => {});

const utilities = () => makeWorkerUtils({ connectionString: databaseUrl, logger: quiet });

async function setup(events, handlers) {
  const utils = await utilities();
  await utils.migrate();
  for (let from = 1; from <= events; from += CHUNK) {
    const jobs = [];
    for (let number = from; number < from + CHUNK && number <= events; number++)
      for (const identifier of queues(handlers)) jobs.push({ identifier, payload: event(number) });
    await utils.addJobs(jobs);
  }
  await utils.release();
}

async function work() {
  const post = poster();
  await run({
    taskList: Object.fromEntries(queues(MOST_HANDLERS).map((name) => [name, post])),
    preset: {
      worker: {
        connectionString: databaseUrl,
        concurrentJobs: 50,
        maxPoolSize: 50,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger: quiet,
      },
    },
  });
}

async function drip(seconds, rate) {
  const utils = await utilities();
  await trickle((payload) => utils.addJob("post1", payload), seconds, rate);
}

await main({ setup, work, trickle: drip });
