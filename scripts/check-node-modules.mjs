// Exits with 0 when node_modules holds what package-lock.json asks for. Compares with the record that npm keeps in
// node_modules, so that `npm install` by hand counts as well.
import { readFileSync } from 'node:fs';

const packagesIn = (file) => JSON.parse(readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')).packages;

function isCurrent() {
  const wanted = packagesIn('package-lock.json');
  const installed = packagesIn('node_modules/.package-lock.json');
  const same = (name) => installed[name]?.version === wanted[name]?.version;
  // Optional ones are for other systems, or they are installed and then have to be right.
  const needed = Object.keys(wanted).filter(
    (name) => name !== '' && !wanted[name].optional && !wanted[name].devOptional,
  );
  return needed.every(same) && Object.keys(installed).every(same);
}

try {
  process.exitCode = isCurrent() ? 0 : 1;
} catch (error) {
  if (error.code !== 'ENOENT') throw error;
  process.exitCode = 1; // never installed
}
