/** Query times are finer than the daemon's: RFC 3339 with up to nine fractional digits, of which E2B counts six. */

/** The first whole millisecond, since the epoch, that is not before the microsecond `text` names. */
export function ceilToMs(text: string): number {
  const beyondMs = /\.\d{3}(\d{1,3})/.exec(text)?.[1] ?? "";
  return Date.parse(text) + (/[1-9]/.test(beyondMs) ? 1 : 0);
}
