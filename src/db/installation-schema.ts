import { sql } from 'drizzle-orm';
import { boolean, check, pgTable, text, timestamp } from 'drizzle-orm/pg-core';

const instant = (name: string) => timestamp(name, { withTimezone: true, mode: 'date' });

/** The Temporal namespace that this database belongs to. One row: clean-up asks this namespace whether a run still runs. */
export const installations = pgTable(
  'installations',
  {
    isOnly: boolean('is_only').primaryKey().default(true),
    /** The server's own id of the namespace, not its name: names repeat from server to server. */
    namespaceId: text('namespace_id').notNull(),
    namespace: text('namespace').notNull(),
    recordedAt: instant('recorded_at').notNull().defaultNow(),
  },
  (t) => [check('installations_one_row', sql`${t.isOnly}`)],
);

/** Namespaces that a person declared lost. Whatever their runs left is cleaned up as if the runs had ended. */
export const lostNamespaces = pgTable('lost_namespaces', {
  namespaceId: text('namespace_id').primaryKey(),
  givenUpBy: text('given_up_by').notNull(),
  givenUpAt: instant('given_up_at').notNull().defaultNow(),
});
