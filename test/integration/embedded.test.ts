import { Connection } from '@temporalio/client';
import { expect, inject } from 'vitest';
import { createTestDatabase, test } from '../support/database.js';

test('each test has a migrated database of its own', async ({ database, pool }) => {
  const other = await createTestDatabase('another one');
  await pool.query('create table only_here (id int)');
  const { rows } = await other.pool.query(
    "select to_regclass('only_here') as here, to_regclass('backup_jobs') as jobs",
  );
  expect(rows).toEqual([{ here: null, jobs: 'backup_jobs' }]);
  expect(other.url).not.toBe(database.url);
  await other.drop();
});

test('the Temporal server has the namespace and its search attributes', async () => {
  const connection = await Connection.connect({ address: inject('temporalAddress') });
  const { customAttributes } = await connection.operatorService.listSearchAttributes({
    namespace: inject('temporalNamespace'),
  });
  expect(Object.keys(customAttributes)).toContain('BackupVMName');
  await connection.close();
});
