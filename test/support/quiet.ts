import { DefaultLogger, Runtime } from '@temporalio/worker';

// Once per test process, before any worker: only errors, so that a failing test's own output can be found.
Runtime.install({ logger: new DefaultLogger('ERROR'), workerHeartbeatInterval: 0 });
