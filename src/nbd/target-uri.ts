/** The NBD URI of an export on this host; names may hold any character. */
export function targetUri(port: number, exportName: string): string {
  return `nbd://127.0.0.1:${port}/${encodeURIComponent(exportName)}`;
}
