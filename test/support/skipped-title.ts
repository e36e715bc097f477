/** The title of a group of tests: with the reason, where the group is skipped for want of something. */
export function titleOf(title: string, missing: string | false | undefined): string {
  return missing ? `${title} (skipped: ${missing})` : title;
}
