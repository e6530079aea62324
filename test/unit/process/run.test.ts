import { describe, expect, test } from 'vitest';
import { run, runForJSON } from '../../../src/process/run.js';
import { runSync } from '../../../src/process/run-sync.js';

/** A real program that does what the script says. */
const node = (script: string) => ['-e', script];

describe('a program that was ended has failed, even if its exit code is 0', () => {
  // As a program does that catches SIGTERM and leaves in good order, with half of its output written.
  const endsWell = `process.on('SIGTERM', () => process.exit(0)); process.stdout.write('{"half":'); setInterval(() => 0, 1000)`;

  test('because its time was up', async () => {
    const running = run('node', node(endsWell), { timeoutMs: 1_000 });
    await expect(running).rejects.toMatchObject({
      code: 'ToolFailed',
      message: expect.stringContaining('1000 ms') as string,
    });
  });

  test('because its time was up, where this process does nothing but wait for it', () => {
    const waiting = () => runSync('node', node(endsWell), { timeoutMs: 1_000 });
    expect(waiting).toThrow(expect.objectContaining({ code: 'ToolFailed' }));
  });
});

describe('a JSON document that a program prints', () => {
  test('is read', async () => {
    expect(await runForJSON('node', node(`console.log('{"a": [1]}')`), { timeoutMs: 30_000 })).toEqual({ a: [1] });
  });

  test.each([
    ['nothing', ''],
    ['half of it', '[{"start": 0, "length": 4096}, {"start":'],
  ])('is an error that can be tried again when %s came, whatever the exit code said', async (_name, text) => {
    const script = `process.stdout.write(${JSON.stringify(text)})`;
    await expect(runForJSON('node', node(script), { timeoutMs: 30_000 })).rejects.toMatchObject({
      code: 'ToolFailed',
      permanent: false,
      message: expect.stringMatching(/^node -e printed no whole JSON document: /) as string,
    });
  });
});
