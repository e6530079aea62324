import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withQMP } from '../../../../src/sources/qmp/client.js';

const signal = new AbortController().signal;
let directory: string;
let path: string;
let server: Server;

type Request = { execute: string; id: number };

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'backupvm-client-'));
  path = join(directory, 'vm.qmp');
});

afterEach(async () => {
  server.close();
  await rm(directory, { recursive: true });
});

/** A server that greets, agrees to qmp_capabilities, and then does as it is told. */
async function listen(answer: (socket: Socket, request: Request) => void, greeting = '{"QMP": {}}'): Promise<void> {
  server = createServer((socket) => {
    socket.write(`${greeting}\r\n`);
    createInterface({ input: socket }).on('line', (line) => {
      const request = JSON.parse(line) as Request;
      if (request.execute === 'qmp_capabilities') socket.write(`{"return": {}, "id": ${request.id}}\r\n`);
      else answer(socket, request);
    });
  }).listen(path);
  await once(server, 'listening');
}

describe('withQMP', () => {
  test('gives each command its own answer, whatever the order, and skips events', async () => {
    const held: Request[] = [];
    await listen((socket, request) => {
      socket.write(`{"event": "JOB_STATUS_CHANGE", "data": {"id": ${request.id}}}\r\n`);
      if (held.push(request) < 2) return;
      for (const { execute, id } of held.reverse()) socket.write(`{"return": "${execute}", "id": ${id}}\r\n`);
    });
    const answers = await withQMP(path, signal, (qmp) => Promise.all([qmp.execute('a'), qmp.execute('b')]));
    expect(answers).toEqual(['a', 'b']);
  });

  test('a VM that dies between an answer and the next command fails that command, and not the whole process', async () => {
    await listen((socket, { id }) => {
      socket.write(`{"return": "answer", "id": ${id}}\r\n`, () => socket.destroy());
    });
    const failing = withQMP(path, signal, async (qmp) => {
      for (;;) await qmp.execute('go on');
    });
    await expect(failing).rejects.toMatchObject({ code: 'SourceFailed' });
  });

  test('turns an error into SourceFailed with what QEMU said', async () => {
    await listen((socket, { id }) =>
      socket.write(`{"error": {"class": "GenericError", "desc": "no"}, "id": ${id}}\r\n`),
    );
    const failing = withQMP(path, signal, (qmp) => qmp.execute('stop'));
    await expect(failing).rejects.toMatchObject({
      code: 'SourceFailed',
      message: `QMP stop on ${path} failed: no`,
      details: { class: 'GenericError', desc: 'no' },
    });
  });

  test('a server that hangs up in mid-command is SourceFailed', async () => {
    await listen((socket) => socket.destroy());
    await expect(withQMP(path, signal, (qmp) => qmp.execute('stop'))).rejects.toMatchObject({ code: 'SourceFailed' });
  });

  test('a cancelled command throws the reason', async () => {
    const controller = new AbortController();
    const reason = new Error('the run was cancelled');
    await listen(() => controller.abort(reason));
    await expect(withQMP(path, controller.signal, (qmp) => qmp.execute('stop'))).rejects.toBe(reason);
  });

  test('something else than a QMP server is named as such', async () => {
    await listen(() => undefined, 'SSH-2.0-OpenSSH_9.2');
    await expect(withQMP(path, signal, (qmp) => qmp.execute('stop'))).rejects.toThrow('it is no QMP server');
  });

  test('nobody listening is VMNotRunning', async () => {
    await listen(() => undefined);
    const nobody = join(directory, 'other.qmp');
    await expect(withQMP(nobody, signal, (qmp) => qmp.execute('stop'))).rejects.toMatchObject({ code: 'VMNotRunning' });
  });
});
