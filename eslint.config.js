import js from '@eslint/js';
import tseslint from 'typescript-eslint';

const nodeBuiltins = '^(node:|fs|path|os|child_process|crypto|net|http|timers)';
const forbid = (files, regex, options = {}) => ({
  files,
  rules: {
    '@typescript-eslint/no-restricted-imports': [
      'error',
      { patterns: [{ regex, message: 'This layer may not import that: see docs/architecture.md', ...options }] },
    ],
  },
});

export default tseslint.config(
  { ignores: ['dist/', 'drizzle/', 'node_modules/', 'test/histories/'] },
  js.configs.recommended,
  ...tseslint.configs.recommendedTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: { allowDefaultProject: ['*.js', 'bin/*.js', 'scripts/*.mjs'] } } },
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
    files: ['src/cli/**', 'demo/**', 'bench/**', 'scripts/**'],
    rules: { 'no-console': 'off', 'max-lines-per-function': ['error', { max: 90 }] },
  },
  {
    // A create<Subject>Activities function is a list of functions, and a describe block a list of tests.
    files: ['src/activities/**', 'src/sources/**', 'test/**'],
    rules: { 'max-lines-per-function': 'off' },
  },
  { files: ['**/*.js', '**/*.mjs'], ...tseslint.configs.disableTypeChecked },
  { files: ['**/*.js', '**/*.mjs'], languageOptions: { globals: { process: 'readonly', console: 'readonly', URL: 'readonly' } } },

  // The layers (docs/architecture.md).
  forbid(['src/workflows/**'], `${nodeBuiltins}|/(activities|db|sources|repository|qemu|nbd|config|cli|embedded)/`, {
    allowTypeImports: true,
  }),
  forbid(['src/domain/**'], '^\\.\\./'),
  forbid(['src/activities/**'], '/(workflows|cli|config|embedded)/|worker\\.js$'),
  forbid(['src/{sources,repository}/**'], '@temporalio/|^\\.\\.(/\\.\\.)*/(workflows|activities|cli|config|db|embedded)/'),
  forbid(['src/{db,qemu,nbd}/**'], '@temporalio/|^\\.\\./(workflows|activities|cli|config|sources|repository|embedded)/'),
);
