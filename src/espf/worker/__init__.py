"""The worker: reads what waits, hands it to the handlers in order, settles what came of it."""
