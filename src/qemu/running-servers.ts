import { readdir, readFile } from 'node:fs/promises';
import { basename } from 'node:path';
import { identify, type ProcessIdentity } from '../process/identity.js';

/** A qemu-nbd that runs on this machine, by its arguments, whoever started it. */
export interface RunningServer extends ServedFile {
  identity: ProcessIdentity;
}

export interface ServedFile {
  /** One of these is null. `socket`: the path of a Unix socket, or the kernel's device that it serves. */
  port: number | null;
  socket: string | null;
  exportName: string;
  /** What it serves: its last argument, or what we described it as; empty where that is an option, which may hold a secret. */
  file: string;
}

/** Every qemu-nbd of this machine that serves something, by pid. */
export async function listRunningServers(): Promise<RunningServer[]> {
  const found: RunningServer[] = [];
  for (const pid of (await readdir('/proc')).filter((entry) => /^\d+$/.test(entry)).map(Number)) {
    const commandLine = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => ''); // ended since, or not to be seen
    const server = parseServerArguments(commandLine.split('\0').slice(0, -1));
    const identity = server && (await identify(pid));
    if (identity) found.push({ ...server, identity });
  }
  return found.sort((a, b) => a.identity.pid - b.identity.pid);
}

/** What a command line serves, or undefined when it is no qemu-nbd that serves. */
export function parseServerArguments([program = '', ...args]: readonly string[]): ServedFile | undefined {
  if (basename(program) !== 'qemu-nbd') return undefined;
  // Other work of the same program: ending it, lists, and devices of the kernel.
  if (args.some((arg) => /^(-[dLVh]|--disconnect|--list|--version|--help)/.test(arg))) return undefined;
  const socket = valueOf(args, '-k', '--socket') ?? valueOf(args, '-c', '--connect') ?? null;
  return {
    port: socket === null ? Number(valueOf(args, '-p', '--port') ?? 10_809) : null, // NBD's own port is its default
    socket,
    exportName: valueOf(args, '-x', '--export-name') ?? '',
    file: servedFile(args),
  };
}

function servedFile(args: readonly string[]): string {
  const last = args.at(-1) ?? '';
  if (last.startsWith('json:')) return valueOf(args, '-D', '--description') ?? '';
  return last.startsWith('-') ? '' : last;
}

/** An option's value in any of the ways that getopt takes one: `-p 1`, `-p1`, `--port 1`, `--port=1`. The last one counts. */
function valueOf(args: readonly string[], short: string, long: string): string | undefined {
  const values = args.flatMap((arg, index) => {
    if (arg === short || arg === long) return args.slice(index + 1, index + 2);
    if (arg.startsWith(`${long}=`)) return [arg.slice(long.length + 1)];
    return arg.startsWith(short) && !arg.startsWith('--') ? [arg.slice(short.length)] : [];
  });
  return values.at(-1);
}
