import js from '@eslint/js';
import tseslint from 'typescript-eslint';

const advice = 'This layer may not import that: see docs/architecture.md';
const forbid = (layer, regex, options = {}) => ({
  files: [`src/${layer}/**`],
  rules: {
    '@typescript-eslint/no-restricted-imports': ['error', { patterns: [{ regex, message: advice, ...options }] }],
  },
});
/** Of our own modules those only; and, where `isBelowTemporal`, nothing of Temporal. */
const layer = (name, ours, { isBelowTemporal = true } = {}) =>
  forbid(name, `^(\\.\\./)+(?!\\.\\./|(${ours.join('|')}))${isBelowTemporal ? '|^@temporalio/' : ''}`);

export default tseslint.config(
  { ignores: ['dist/', 'drizzle/', 'node_modules/', 'test/histories/'] },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: {
      parserOptions: { projectService: { allowDefaultProject: ['*.js', 'bin/*.js', 'scripts/*.mjs'] } },
    },
    rules: {
      '@typescript-eslint/no-floating-promises': 'error',
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true, allowBoolean: true }],
      '@typescript-eslint/require-await': 'off', // activities and Source methods are async by contract
      'no-console': 'error',
      'max-lines': ['error', { max: 300 }],
      'max-lines-per-function': ['error', { max: 60 }],
    },
  },
  {
    files: ['src/cli/**', 'demo/**', 'bench/**', 'chaos/**', 'scripts/**'],
    rules: { 'no-console': 'off', 'max-lines-per-function': ['error', { max: 90 }] },
  },
  {
    // A create<Subject>Activities function is a list of functions, and a describe block a list of tests.
    files: ['src/activities/**', 'src/sources/**', 'test/**'],
    rules: { 'max-lines-per-function': 'off' },
  },
  { files: ['**/*.js', '**/*.mjs'], ...tseslint.configs.disableTypeChecked },
  {
    files: ['**/*.js', '**/*.mjs'],
    languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } },
  },

  // The layers (docs/architecture.md). Workflows run in Temporal's sandbox, so that they may not touch anything else.
  forbid('workflows', '^(?!\\./|\\.\\./domain/|@temporalio/(workflow|common)$)', { allowTypeImports: true }),
  forbid('domain', '^(?!\\./\\w|zod$)'),
  layer('activities', ['domain/', 'db/', 'sources/', 'repository/', 'hashes/', 'qemu/', 'nbd/', 'process/'], {
    isBelowTemporal: false,
  }),
  layer('sources', ['source\\.js', 'domain/', 'qemu/', 'nbd/', 'process/']),
  layer('repository', ['domain/', 'qemu/', 'nbd/', 'process/']),
  layer('hashes', ['domain/', 'repository/', 'qemu/', 'process/']),
  layer('qemu', ['domain/', 'nbd/', 'process/']),
  layer('nbd', ['domain/', 'process/']),
  layer('process', ['domain/']),
  layer('db', ['domain/']),
  layer('config', ['domain/'], { isBelowTemporal: false }),
  layer('embedded', ['domain/', 'process/'], { isBelowTemporal: false }),
  {
    // Programs run by src/process; a server that outlives its caller, by src/embedded.
    files: ['src/**'],
    ignores: ['src/process/**', 'src/embedded/**'],
    rules: { 'no-restricted-imports': ['error', { paths: ['execa', 'child_process', 'node:child_process'] }] },
  },
);
