/** The text of Dockerfiles: lines that go on, words and quotes, commands in both of their forms. Pure. */

export interface Instruction {
  readonly line: number;
  readonly keyword: string;
  readonly rest: string;
}

export type Command =
  | { readonly kind: "shell"; readonly text: string }
  | { readonly kind: "list"; readonly words: readonly string[] };

export function commandOf(text: string): Command {
  const list = jsonList(text);
  return list ? { kind: "list", words: list } : { kind: "shell", text: text.trim() };
}

export const shellText = (command: Command) =>
  command.kind === "shell" ? command.text : command.words.map(quote).join(" ");

/** Docker's rules: a list of CMD follows a list of ENTRYPOINT; an ENTRYPOINT in shell form ignores CMD. */
export function startOf(entrypoint: Command | undefined, command: Command | undefined): string | undefined {
  if (!entrypoint) return command && shellText(command);
  if (entrypoint.kind === "shell" || !command) return shellText(entrypoint);
  return `${shellText(entrypoint)} ${shellText(command)}`;
}

export function* instructionsIn(text: string): Generator<Instruction> {
  let begun: { line: number; text: string } | undefined;
  for (const [index, raw] of text.split(/\r?\n/).entries()) {
    // As in Docker, also between the lines of one instruction.
    if (/^\s*(#|$)/.test(raw)) continue;
    const continues = /\\\s*$/.test(raw);
    const piece = raw.replace(/\\\s*$/, "");
    begun = { line: begun?.line ?? index + 1, text: `${begun?.text ?? ""}${piece}` };
    if (continues) continue;
    yield instructionOf(begun);
    begun = undefined;
  }
  if (begun) yield instructionOf(begun);
}

function instructionOf({ line, text }: { line: number; text: string }): Instruction {
  const [, keyword = "", rest = ""] = /^\s*(\S+)\s*(.*)$/s.exec(text) ?? [];
  return { line, keyword: keyword.toUpperCase(), rest };
}

/** The words of a line; what is in quotes is one. */
export const words = (text: string): string[] => text.match(/(?:"(?:\\.|[^"\\])*"|'[^']*'|\\.|[^\s"'\\])+/g) ?? [];

export function unquote(word: string): string {
  return word.replaceAll(/"((?:\\.|[^"\\])*)"|'([^']*)'|\\(.)/g, (_, double, single, escaped) => {
    if (single !== undefined) return single as string;
    return (double as string | undefined)?.replaceAll(/\\(["\\$])/g, "$1") ?? (escaped as string);
  });
}

const quote = (word: string) => (/^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

export function jsonList(text: string): string[] | undefined {
  if (!text.trim().startsWith("[")) return undefined;
  try {
    const list = JSON.parse(text) as unknown;
    return Array.isArray(list) && list.every((word) => typeof word === "string") ? list : undefined;
  } catch {
    return undefined;
  }
}
