import { defineConfig } from 'drizzle-kit';

export default defineConfig({
  dialect: 'postgresql',
  schema: [
    './src/db/schema.ts',
    './src/db/chain-schema.ts',
    './src/db/kept-schema.ts',
    './src/db/installation-schema.ts',
  ],
  out: './drizzle',
});
