import type { VerifyLevel } from './verify-input.js';

/** What was found of one disk's file in one restore point. */
export interface VerifiedFile {
  pointId: string;
  /** ISO 8601. */
  pointTime: string;
  key: string;
  target: string;
  /** Relative to the repository. */
  path: string;
  fileBytes: number;
  /** Blocks that were compared with their hashes; null where the content was not looked at. */
  comparedBlocks: number | null;
  differentBlocks: number | null;
  /** Where the first blocks begin that differ: offsets in the virtual disk, in bytes. */
  firstDifferences: number[];
  /** What is wrong, as it is recorded; null where nothing is. */
  damage: string | null;
}

/** The result of VerifyBackup. Damage is a result: the workflow completes all the same. */
export interface VerifyBackupResult {
  vm: string;
  repository: string;
  level: VerifyLevel;
  damaged: boolean;
  /** The restore points that were to be verified, oldest first. */
  points: { pointId: string; pointTime: string; damaged: boolean }[];
  /** How many files were looked at: those of the points, and all that these need. */
  fileCount: number;
  /** The files, oldest first; only those with damage where there are very many. */
  files: VerifiedFile[];
}
