import { expect, test } from 'vitest';
import { problemOf, virshError } from '../../../../src/sources/libvirt/virsh.js';

// As libvirt 9.0 says it.
test.each([
  ["error: failed to get domain 'web01'", 'no-domain'],
  ["error: failed to get domain 'web01'\nerror: Domain not found: no domain with matching name 'web01'", 'no-domain'],
  ["error: failed to get domain 'web01'\nerror: Cannot recv data: Connection reset by peer", 'unreachable'],
  ["error: failed to get domain 'web01'\nerror: internal error: client socket is closed", 'other'],
  [
    "error: failed to connect to the hypervisor\nerror: Failed to connect socket to '/run/libvirt/libvirt-sock'",
    'unreachable',
  ],
  ['error: Requested operation is not valid: domain is not running', 'not-running'],
  ['error: Operation not supported: cannot perform disk backup for inactive domain', 'not-running'],
  ['error: Requested operation is not valid: no job is active on the domain', 'no-job'],
  ['error: Domain backup job id not found: no domain backup job present', 'no-job'],
  ["error: Domain checkpoint not found: no domain checkpoint with matching name 'cp1'", 'no-checkpoint'],
  [
    "error: Domain checkpoint not found: Checkpoint 'cp1' for incremental backup of disk 'vda' not found",
    'no-checkpoint',
  ],
  ["error: checkpoint inconsistent: missing or broken bitmap 'cp4' for disk 'vda'", 'broken-bitmap'],
  ["error: internal error: bitmap 'cp2' not found in backing chain of 'vda'", 'broken-bitmap'],
  [
    'error: Timed out during operation: cannot acquire state change lock (held by monitor=remoteDispatchDomainBackupBegin)',
    'busy',
  ],
  ["error: unsupported configuration: disk 'vdb' already in active block job", 'busy'],
  ['error: Unable to freeze filesystems\nerror: argument unsupported: QEMU guest agent is not configured', 'no-agent'],
  ['error: Guest agent is not responding: QEMU guest agent is not connected', 'no-agent'],
  ['error: internal error: unable to execute QEMU agent command', 'other'],
])('%s is %s', (stderr, problem) => {
  expect(problemOf(stderr)).toBe(problem);
});

test.each([
  ['no-domain', 'VMNotFound'],
  ['not-running', 'VMNotRunning'],
  ['busy', 'SourceBusy'],
  ['unreachable', 'SourceFailed'],
  ['other', 'SourceFailed'],
] as const)('%s is thrown as %s, with what was asked and said', (problem, code) => {
  const error = virshError('qemu:///system', ['dumpxml', '--domain', 'web01'], { problem, said: 'error: a\nerror: b' });
  expect(error).toMatchObject({ code, details: { problem } });
  expect(error.message).toContain('libvirt at qemu:///system refused dumpxml --domain web01: a: b');
});
