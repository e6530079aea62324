import type pg from 'pg';

/** The tables of a database as they were at a moment. */
export interface CopiedTables {
  /** What restoring a dump of that moment does. Nobody may be connected who works. */
  putBack: () => Promise<void>;
}

/** Copies every table, as a dump does that is taken while others work: in one transaction that sees one moment. */
export async function copyTables(pool: pg.Pool): Promise<CopiedTables> {
  const schema = `copy_${process.hrtime.bigint()}`;
  const { rows } = await pool.query<{ name: string }>(
    `select tablename as name from pg_tables where schemaname = 'public'`,
  );
  const copies = rows.map(({ name }) => `create table ${schema}."${name}" as table public."${name}";`);
  await pool.query(`begin isolation level repeatable read; create schema ${schema}; ${copies.join(' ')} commit;`);
  return {
    async putBack() {
      const names = rows.map(({ name }) => `public."${name}"`).join(', ');
      const inserts = rows.map(({ name }) => `insert into public."${name}" select * from ${schema}."${name}";`);
      // Foreign keys are triggers: the order of tables does not matter without them, and all rows are of one moment.
      await pool.query(
        `begin; set local session_replication_role = replica; truncate ${names}; ${inserts.join(' ')} commit;`,
      );
    },
  };
}
