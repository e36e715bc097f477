/**
 * The PATH of login shells in a template. All commands of clients run in such shells, where /etc/profile replaces the PATH
 * that the shell was given.
 */

export const loginPathFile = "/etc/profile.d/template-path.sh";

const standard = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/** A PATH with the standard folders behind its own, as in E2B: without them there is no shell and no program. */
export function wholePath(path: string): string {
  const folders = path.split(":");
  return [...folders, ...standard.filter((folder) => !folders.includes(folder))].join(":");
}

/** The content of {@link loginPathFile}. */
export function loginPathScript(path: string): string {
  return `export PATH='${wholePath(path).replaceAll("'", "'\\''")}'\n`;
}
