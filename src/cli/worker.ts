import { Option, type Command } from 'commander';
import { readConfig } from '../config/config.js';
import { addCommand } from './command.js';
import { print, type CommonOptions, type Terminal } from './terminal.js';

interface WorkerOptions extends CommonOptions {
  only?: 'workflows' | 'host';
}

export function addWorkerCommand(program: Command, terminal: Terminal): void {
  addCommand(program, 'worker', 'Run the workflows and the steps of this host until Ctrl-C', 'worker')
    .addOption(
      new Option('--only <role>', 'one role: workflows (any machine), host (copies and steps of this machine)').choices(
        ['workflows', 'host'],
      ),
    )
    .action(async (options: WorkerOptions) => {
      const config = readConfig(terminal.env);
      const { runWorker } = await import('../worker.js'); // loads the SDK's native core; other commands start without
      await runWorker(config, { ...(options.only ? { only: options.only } : {}), signal: terminal.onInterrupt() });
      print(terminal, options, { document: { host: config.host, stopped: true }, text: 'The worker has stopped' });
    });
}
