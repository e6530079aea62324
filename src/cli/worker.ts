import { Option, type Command } from 'commander';
import { readConfig } from '../config/config.js';
import { BackupError } from '../domain/errors.js';
import { addCommand } from './command.js';
import { print, type CommonOptions, type Terminal } from './terminal.js';

interface WorkerOptions extends CommonOptions {
  only?: 'workflows' | 'host';
  takeOver?: true;
}

export function addWorkerCommand(program: Command, terminal: Terminal): void {
  addCommand(program, 'worker', 'Run the workflows and the steps of this host until Ctrl-C', 'worker')
    .addOption(
      new Option('--only <role>', 'one role: workflows (any machine), host (copies and steps of this machine)').choices(
        ['workflows', 'host'],
      ),
    )
    .option('--take-over', 'this machine replaces the one that had the host name until now, which is gone for good')
    .action(async (options: WorkerOptions) => {
      const { only, takeOver = false } = options;
      if (takeOver && only === 'workflows') {
        throw new BackupError('InvalidInput', `Expected --take-over with the role host, found '--only workflows'`);
      }
      const config = readConfig(terminal.env);
      const { runWorker } = await import('../worker.js'); // loads the SDK's native core; other commands start without
      await runWorker(config, { ...(only ? { only } : {}), takeOver, signal: terminal.onInterrupt() });
      print(terminal, options, { document: { host: config.host, stopped: true }, text: 'The worker has stopped' });
    });
}
