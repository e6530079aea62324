import { inject, test as base } from 'vitest';
import { copyDatabase, type TestDatabase } from './template-database.js';

export type { TestDatabase } from './template-database.js';

/** Makes a migrated, empty database; the caller drops it. `purpose` is what its connections are called in Postgres. */
export async function createTestDatabase(purpose: string): Promise<TestDatabase> {
  return copyDatabase(inject('templateDatabaseUrl'), purpose);
}

/** `test` with a database of its own for each test that asks for `database`, `db` or `pool`. */
export const test = base.extend<{ database: TestDatabase; db: TestDatabase['db']; pool: TestDatabase['pool'] }>({
  database: async ({ task }, use) => {
    const database = await createTestDatabase(task.name);
    try {
      await use(database);
    } finally {
      await database.drop();
    }
  },
  db: async ({ database }, use) => use(database.db),
  pool: async ({ database }, use) => use(database.pool),
});
