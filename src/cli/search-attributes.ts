import { ServiceError, type Connection } from '@temporalio/client';
import { searchAttributes } from '../workflows/messages.js';

/** Name and type of every search attribute that backups set, as the Temporal CLI writes them. */
export const searchAttributeTypes: Readonly<Record<string, 'Keyword'>> = Object.fromEntries(
  Object.values(searchAttributes).map(({ name }) => [name, 'Keyword' as const]),
);

const keyword = 2; // IndexedValueType KEYWORD; the enum itself is not part of the client package

export interface SearchAttributeOutcome {
  created: string[];
  warnings: string[];
}

/**
 * Creates the search attributes that are missing. Safe to repeat. A server that refuses is a warning: backups run without them.
 */
export async function createSearchAttributes(
  connection: Connection,
  namespace: string,
): Promise<SearchAttributeOutcome> {
  try {
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
    const names = Object.keys(searchAttributeTypes);
    const otherType = names.filter((name) => (customAttributes[name] ?? keyword) !== keyword);
    const missing = names.filter((name) => !(name in customAttributes));
    if (missing.length > 0) {
      const types = Object.fromEntries(missing.map((name) => [name, keyword] as const));
      await connection.operatorService.addSearchAttributes({ namespace, searchAttributes: types });
    }
    return {
      created: missing,
      warnings: otherType.map((name) => `Search attribute ${name} exists with another type than Keyword`),
    };
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const said = error instanceof ServiceError ? String(error.cause) : error.message;
    return {
      created: [],
      warnings: [`The Temporal server refused the search attributes, backups run without: ${said}`],
    };
  }
}
