import { ensureLibvirtd } from '../../demo/libvirtd.js';

/** Vitest's globalSetup: a libvirt that answers, and afterwards the machine as it was. */
export default async function setup(): Promise<() => Promise<void>> {
  const libvirtd = await ensureLibvirtd();
  return () => libvirtd.stop();
}
